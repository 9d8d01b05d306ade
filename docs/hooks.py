"""Adds to the site the pages outside docs/, and the API with one page per folder.

The pages are made while the site is built. So README.md exists once, and a module that is new or
moves needs no change here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGES = ("featurestore", "classifier", "pipelines")
# In the order of the menu: file in the repository -> (page, title).
PAGES = {
    "README.md": ("index.md", "Hoarfrost"),
    "docs/recipes.md": ("recipes.md", "Recipes"),
    "docs/bases.md": ("bases.md", "Your own base"),
    "docs/operations.md": ("operations.md", "Operations"),
    "docs/scoring.md": ("scoring.md", "Labels for images"),
    "docs/tournament.md": ("tournament.md", "Tournament of bases"),
    "docs/audit.md": ("audit.md", "Audit and search"),
    "docs/taps.md": ("taps.md", "Several layers"),
    "docs/finetuning.md": ("finetuning.md", "Fine-tuning"),
    "docs/deploy.md": ("deploy.md", "Deploy"),
    "docs/dask.md": ("dask.md", "Dask"),
    "docs/flink.md": ("flink.md", "Flink"),
    "docs/format.md": ("format.md", "The store's format"),
    "docs/readers.md": ("readers.md", "Readers"),
    "docs/export.md": ("export.md", "Exports"),
    "docs/adopt.md": ("adopt.md", "Classifiers of others"),
    "docs/gpu.md": ("gpu.md", "GPUs"),
    "docs/performance.md": ("performance.md", "Performance"),
    "docs/scale.md": ("scale.md", "A hundred million images"),
    "examples/README.md": ("examples.md", "Examples"),
    "docs/architecture.md": ("architecture.md", "Architecture"),
    "CONTRIBUTING.md": ("contributing.md", "Contributing"),
    "SECURITY.md": ("security.md", "Security"),
    "CHANGELOG.md": ("changelog.md", "Changelog"),
}
_LINK = re.compile(r"\[([^\]\n]*(?:\n[^\]\n]*)?)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and makes the menu of all pages."""
    menu: list[dict] = []
    for source, (page, title) in PAGES.items():
        if not source.startswith("docs/"):
            text = with_links_of_the_site((ROOT / source).read_text(encoding="utf-8"), source)
            files.append(File.generated(config, page, content=text))
        menu.append({title: page})
    known = {page for page, _ in PAGES.values()}
    # Pages of docs/ that `PAGES` does not name come after those that it names.
    menu += [file.src_uri for file in files.documentation_pages() if file.src_uri not in known]
    config.nav = [*menu, {"API": [_api(package, files, config) for package in PACKAGES]}]
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Corrects the links of the pages in docs/."""
    source = f"docs/{page.file.src_uri}"
    return with_links_of_the_site(markdown, source) if source in PAGES else markdown


def with_links_of_the_site(text: str, source: str) -> str:
    """Returns Markdown whose links lead to pages of the site.

    A link to another file of the repository becomes its text, because the file is not in the site.
    A link to a missing file is kept, and fails the build.

    Args:
      text: Markdown.
      source: its path in the repository.

    Example:
      >>> with_links_of_the_site("[a](docs/format.md#views), [b](setup.py)", "README.md")
      '[a](format.md#views), b'
    """

    def mended(link: re.Match[str]) -> str:
        label, path, anchor = link.group(1), link.group(2), link.group(3) or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target in PAGES:
            return f"[{label}]({PAGES[target][0]}{anchor})"
        return label if (ROOT / target).exists() else link.group(0)

    return _LINK.sub(mended, text)


def _api(package: str, files: Files, config: MkDocsConfig) -> dict:
    """Adds a page for each folder of a package; returns their entries in the menu."""
    pages = []
    for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
        name = ".".join(folder.relative_to(ROOT).parts)
        modules = [name, *(f"{name}.{path.stem}" for path in sorted(folder.glob("[!_]*.py")))]
        lines = [f"# {name}", "", *(f"::: {module}" for module in modules)]
        page = f"api/{name}.md"
        files.append(File.generated(config, page, content="\n\n".join(lines) + "\n"))
        pages.append({name: page})
    return {package: pages}
