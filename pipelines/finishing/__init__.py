"""The end of a run: its ledger, its verdict, where its time went."""
