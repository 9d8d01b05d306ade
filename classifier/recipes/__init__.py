"""Recipes: tutorials as files of flags, and how commands take flags from them."""
