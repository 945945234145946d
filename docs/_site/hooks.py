"""What the site takes from outside `docs/`: the README, the pages of service and examples, files that pages link to."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "index.md": ROOT / "README.md",
    "service.md": ROOT / "systemd" / "README.md",
    "example_node.md": ROOT / "examples" / "node" / "README.md",
    "example_ros2.md": ROOT / "examples" / "ros2" / "README.md",
}
"""Pages of the site that lie elsewhere."""
LINK = re.compile(r"\]\(([^)#\s]+)([^)]*)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files of the repository that lie outside."""
    places = {source: name for name, source in OUTSIDE.items()}
    pages = {name: source.read_text(encoding="utf-8") for name, source in OUTSIDE.items()}
    pages |= {
        file.src_uri: Path(file.abs_src_path).read_text(encoding="utf-8")
        for file in files.documentation_pages()
        if file.abs_src_path
    }
    for name, text in pages.items():
        folder = OUTSIDE[name].parent if name in OUTSIDE else ROOT / "docs" / PurePosixPath(name).parent

        def rewritten(found: re.Match[str], folder: Path = folder, name: str = name) -> str:
            if "://" in found[1]:
                return found[0]
            target = (folder / found[1]).resolve()
            if target.is_dir() or not target.is_relative_to(ROOT) or not target.exists():
                return found[0]
            if target in places:
                place = places[target]
            elif target.is_relative_to(ROOT / "docs"):
                place = target.relative_to(ROOT / "docs").as_posix()
            else:
                place = f"files/{target.relative_to(ROOT).as_posix()}"
                if files.get_file_from_path(place) is None:
                    files.append(File.generated(config, place, abs_src_path=str(target)))
            up = "../" * name.count("/")
            return f"]({up}{place}{found[2]})"

        if (old := files.get_file_from_path(name)) is not None:
            files.remove(old)
        files.append(File.generated(config, name, content=LINK.sub(rewritten, text)))
    return files
