"""Manual pages and completions as this tree makes them, read by those who will read them: mandoc's
and groff's lint, and each shell. python3 -m unittest discover tests/outside
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from ground import PATIENCE, built, skip, unpacked  # noqa: E402

PAGES = {"nbguardd.8": ["nbguardd - ", "--dry-run", "SIGHUP", "EXIT STATUS", "event_to_signal_us",
                        "nbguard_kills_total", "memory-in-no-workload"],
         "nbguard.1": ["nbguard - ", "nbguard incidents", "--follow", "EXIT STATUS", "NO_COLOR"],
         "nbguard.toml.5": ["nbguard.toml - ", "[guard]", "[[rule]]", "notebook_max", "Default: \"90%\""]}

# What bash runs when somebody presses Tab.
QUERY = r"""
source "$1/nbguard" && source "$1/nbguardd" || exit 9
shift
compopt() { :; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"_$1" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def tool(name, package=None, path=None):
    """Of this machine, or out of Debian's package."""
    found = shutil.which(name) or str(unpacked(package or name, path or f"usr/bin/{name}"))
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=PATIENCE)
    except OSError as error:
        skip(f"{name} does not run here: {error}")
    # Unpacked without what it stands on.
    if done.returncode == 127:
        skip(f"{name} does not run here: {done.stderr.strip()}")
    return found


class Made(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nbguard-manual-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def make(self, *words):
        done = subprocess.run([built("nbguard"), "doc", *words, "--to", self.folder], capture_output=True,
                              text=True, timeout=PATIENCE, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.folder

    def quiet(self, words, **more):
        """It ends well and says nothing."""
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE, **more)
        return self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout[-2000:]) or done.stdout


class Manual(Made):
    def test_mandoc_finds_nothing_wrong(self):
        mandoc = tool("mandoc")
        folder = self.make("man")
        self.assertEqual(sorted(path.name for path in folder.iterdir()), sorted(PAGES))
        for page in PAGES:
            self.assertEqual(self.quiet([mandoc, "-T", "lint", "-W", "style", folder / page]), "", page)

    def test_man_warns_of_nothing_and_shows_what_is_there(self):
        if not shutil.which("man") or not shutil.which("groff"):
            skip("man or groff is missing (apt install man-db groff)")
        folder = self.make("man")
        for page, words in PAGES.items():
            for device in ("UTF-8", "ascii"):
                text = self.quiet(["man", "--warnings=w", "-E", device, "-l", folder / page],
                                  env={**os.environ, "MANWIDTH": "120", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"})
                for word in words:
                    self.assertIn(word, text, page)

    def test_two_builds_are_the_same(self):
        first = {path.name: path.read_bytes() for path in self.make("man").iterdir()}
        self.assertEqual({path.name: path.read_bytes() for path in self.make("man").iterdir()}, first)
        self.assertIn(b".TH NBGUARD 1 2023-11-14 ", first["nbguard.1"])


class Completions(Made):
    def ask_bash(self, folder, *words):
        return self.quiet(["bash", "-c", QUERY, "bash", folder, *words]).split()

    def test_bash_completes(self):
        folder = self.make("completions", "bash")
        for program in ("nbguard", "nbguardd"):
            self.quiet(["bash", "-n", folder / program])
        self.assertEqual(self.ask_bash(folder, "nbguard", "pro"), ["protect"])
        self.assertEqual(sorted(self.ask_bash(folder, "nbguard", "incidents", "--kind", "")),
                         ["hold", "kernel-oom", "kill"])
        self.assertIn("--container", self.ask_bash(folder, "nbguard", "ps", "--"))
        self.assertNotIn("--root", self.ask_bash(folder, "nbguard", "ps", "--"))
        self.assertNotIn("set-memory-high", self.ask_bash(folder, "nbguard", ""))
        self.assertIn("--dry-run", self.ask_bash(folder, "nbguardd", "--"))
        # A file is completed with files, a container is not.
        self.assertIn("/etc/passwd", self.ask_bash(folder, "nbguard", "restore", "--state", "/etc/passw"))
        self.assertNotIn("/etc/passwd", self.ask_bash(folder, "nbguard", "ps", "--container", "/etc/passw"))

    def test_zsh_reads_them(self):
        zsh = tool("zsh", path="bin/zsh")
        folder = self.make("completions", "zsh")
        for program in ("_nbguard", "_nbguardd"):
            self.quiet([zsh, "-f", "-n", folder / program])
            self.assertTrue((folder / program).read_text().startswith(f"#compdef {program[1:]}\n"))

    def test_fish_completes(self):
        fish = tool("fish")
        folder = self.make("completions", "fish")
        env = {**os.environ, "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        for program in ("nbguard.fish", "nbguardd.fish"):
            self.quiet([fish, "--no-execute", folder / program], env=env)
        asked = f'source {folder}/nbguard.fish; complete -C "nbguard incidents --kind "'
        done = subprocess.run([fish, "--no-config", "-c", asked], capture_output=True, text=True, env=env,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE)
        self.assertEqual(sorted(line.split("\t")[0] for line in done.stdout.splitlines()),
                         ["hold", "kernel-oom", "kill"], done.stderr)


if __name__ == "__main__":
    unittest.main()
