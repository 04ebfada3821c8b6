"""The wheel: what is in it, that the same sources give the same bytes, and that pip takes it."""

import ast
import base64
import csv
import hashlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
SOURCE = REPOSITORY / "packaging/jupyter"


def build(folder):
    done = subprocess.run([sys.executable, str(SOURCE / "build.py"), "--out", str(folder)],
                          capture_output=True, text=True, check=True)
    return pathlib.Path(done.stdout.strip())


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.wheel = build(pathlib.Path(cls.folder.name) / "one")
        cls.zip = zipfile.ZipFile(cls.wheel)

    @classmethod
    def tearDownClass(cls):
        cls.zip.close()
        cls.folder.cleanup()

    def one(self, end):
        name, = [name for name in self.zip.namelist() if re.search(end, name)]
        return self.zip.read(name)

    def test_the_same_sources_give_the_same_bytes(self):
        again = build(pathlib.Path(self.folder.name) / "two")
        self.assertEqual(again.name, self.wheel.name)
        self.assertEqual(again.read_bytes(), self.wheel.read_bytes())

    def test_its_version_is_the_guards(self):
        version = re.search(r'^version = "(.*)"$', (REPOSITORY / "Cargo.toml").read_text(), re.M)[1]
        self.assertIn(f"\nVersion: {version}\n", self.one("/METADATA$").decode())
        self.assertEqual(self.wheel.name, f"nbguard_jupyter-{version}-py3-none-any.whl")

    def test_its_record_names_every_file_with_its_digest(self):
        rows = list(csv.reader(io.StringIO(self.one("/RECORD$").decode())))
        self.assertEqual({row[0] for row in rows}, set(self.zip.namelist()))
        for path, digest, size in rows:
            if not path.endswith("/RECORD"):
                content = self.zip.read(path)
                good = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                self.assertEqual((digest, size), (f"sha256={good}", str(len(content))), path)

    def test_it_switches_everything_on(self):
        enabled = json.loads(self.one(r"data/etc/jupyter/jupyter_server_config\.d/nbguard_jupyter\.json$"))
        self.assertEqual(enabled, {"ServerApp": {"jpserver_extensions": {"nbguard_jupyter": True}}})
        package = json.loads(self.one("labextensions/nbguard-jupyter/package.json$"))
        load = package["jupyterlab"]["_build"]["load"]
        code = self.one(re.escape(f"labextensions/nbguard-jupyter/{load}") + "$")
        self.assertIn(hashlib.sha256(code).hexdigest()[:20], load)

    def test_the_page_never_gets_markup(self):
        code = self.one(r"remoteEntry\..*\.js$").decode()
        for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            self.assertNotIn(danger, code)

    def test_it_runs_on_python_3_8(self):
        for name in self.zip.namelist():
            if name.endswith(".py"):
                ast.parse(self.zip.read(name), name, feature_version=(3, 8))
        # The build as well: pip runs it with the user's Python.
        ast.parse((SOURCE / "build.py").read_text(), feature_version=(3, 8))

    def test_metrics_are_named_as_the_guards(self):
        source = REPOSITORY / "src/observe/metrics.rs"
        if not source.exists():
            self.skipTest("the guard has no metrics in this tree")
        guards = set(re.findall(r'name: "(nbguard_\w+)"', source.read_text()))
        ours = set(re.findall(r'"(nbguard_\w+)"', self.one("nbguard_jupyter/metrics.py$").decode()))
        self.assertEqual(ours - guards, {"nbguard_up", "nbguard_figures_age_seconds"})

    def test_pip_builds_the_same_from_the_folder_without_a_network(self):
        folder = pathlib.Path(self.folder.name) / "pip"
        subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--quiet",
                        "--wheel-dir", str(folder), str(SOURCE)], check=True, capture_output=True)
        made, = folder.glob("*.whl")
        self.assertEqual(made.read_bytes(), self.wheel.read_bytes())


if __name__ == "__main__":
    unittest.main()
