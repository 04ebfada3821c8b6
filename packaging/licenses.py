"""Writes the licenses of everything that is linked into the binaries: licenses.py REPOSITORY.

Crates by name and version, and each text once, with those that it is of.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys

LICENSE = re.compile(r"(licen[cs]e|copying|notice|unlicense)", re.I)
# A license text is some kilobytes; what is larger is something else of that name.
TEXT_MAX = 200_000


def output(words, root):
    return subprocess.run(words, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout


def main():
    root = pathlib.Path(sys.argv[1])
    metadata = json.loads(output(["cargo", "metadata", "--locked", "--format-version", "1"], root))
    packages = {(one["name"], one["version"]): one for one in metadata["packages"]}
    tree = output(["cargo", "tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}",
                   "--package", "nbguard"], root)
    linked = sorted({(words[0], words[1].lstrip("v")) for words in map(str.split, tree.splitlines()) if words})
    texts = {}
    print("nbguard is statically linked with these:\n")
    for key in linked:
        package = packages[key]
        if package["source"] is None:
            continue
        name = " ".join(key)
        print(f"  {name}: {package['license'] or 'see below'}")
        for file in sorted(pathlib.Path(package["manifest_path"]).parent.iterdir()):
            if file.is_file() and LICENSE.search(file.name) and file.stat().st_size < TEXT_MAX:
                text = file.read_text(encoding="utf-8", errors="replace").strip()
                texts.setdefault(hashlib.sha256(text.encode()).digest(), (text, []))[1].append(name)
    for text, names in sorted(texts.values(), key=lambda one: one[1]):
        print(f"\n{'=' * 80}\n{', '.join(names)}\n{'=' * 80}\n\n{text}")
    print("\nand with the GNU C Library, under the GNU Lesser General Public License 2.1 or later.")


if __name__ == "__main__":
    main()
