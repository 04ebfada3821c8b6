"""The manifest for Kubernetes against the API's own schemas, which PyPI's kubernetes-validate carries, and
the configuration in it against `nbguard check`. python3 -m unittest discover tests/outside
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from ground import CACHE, PACKAGING, PATIENCE, REPOSITORY, built, skip  # noqa: E402

MANIFEST = PACKAGING / "kubernetes/nbguard.yaml"
PACKAGE = "kubernetes-validate==1.37.0"
# The first and the last that the package and the README name.
VERSIONS = ("1.29.0", "1.33.0", "1.37.0")


def python():
    """One that has the schemas, in a folder of its own."""
    venv = CACHE / "kubernetes-venv"
    own = venv / "bin/python"
    marked = venv / "installed"
    if marked.exists() and marked.read_text() == PACKAGE:
        return own
    done = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
    if done.returncode != 0 and os.geteuid() == 0:
        subprocess.run(["apt-get", "-y", "-qq", "--no-install-recommends", "install", "python3-venv"],
                       capture_output=True, timeout=600)
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
    if done.returncode != 0:
        skip("python3 -m venv does not work here")
    done = subprocess.run([own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE],
                          capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        skip(f"pip could not install {PACKAGE}: {done.stderr.strip()[-200:]}")
    marked.write_text(PACKAGE)
    return own


class Manifest(unittest.TestCase):
    def validate(self, text):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "manifest.yaml"
            file.write_text(text)
            words = [python().with_name("kubernetes-validate"), "--strict"]
            words += [word for version in VERSIONS for word in ("-k", version)]
            return subprocess.run([*words, file], capture_output=True, text=True, timeout=4 * PATIENCE)

    def documents(self):
        code = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
        done = subprocess.run([python(), "-c", code], input=MANIFEST.read_text(), capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return {document["kind"]: document for document in json.loads(done.stdout)}

    def test_every_object_is_as_the_api_has_it(self):
        done = self.validate(MANIFEST.read_text())
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, said)
        self.assertEqual(said.count(" passed for resource "), 4 * len(VERSIONS), said)

    def test_a_key_that_the_api_does_not_have_is_noticed(self):
        wrong = MANIFEST.read_text().replace("hostPID: true", "hostPid: true")
        self.assertNotEqual(wrong, MANIFEST.read_text())
        self.assertNotEqual(self.validate(wrong).returncode, 0)

    def test_its_parts_fit(self):
        objects = self.documents()
        self.assertEqual(set(objects), {"Namespace", "ConfigMap", "DaemonSet", "NetworkPolicy"})
        pod = objects["DaemonSet"]["spec"]["template"]
        self.assertEqual(pod["metadata"]["labels"], objects["DaemonSet"]["spec"]["selector"]["matchLabels"])
        self.assertEqual(pod["metadata"]["labels"], objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
        own = pod["spec"]["containers"][0]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        self.assertEqual({mount["name"] for mount in own["volumeMounts"]}, set(volumes))
        # Others may not read the token, and the state outlives the pod.
        self.assertEqual(volumes["http"]["secret"]["defaultMode"], 0o400)
        self.assertEqual(volumes["run"]["hostPath"]["path"], "/run")
        self.assertTrue(own["securityContext"]["privileged"] and pod["spec"]["hostPID"])
        version = re.search(r'^version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.M)[1]
        self.assertEqual(own["image"], f"nbguard:{version}")

    def test_the_configuration_is_one(self):
        text = self.documents()["ConfigMap"]["data"]["nbguard.toml"]
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "nbguard.toml"
            file.write_text(text)
            done = subprocess.run([built("nbguard"), "check", file], capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_image_has_what_the_manifest_starts(self):
        lines = (PACKAGING / "kubernetes/Dockerfile").read_text().splitlines()
        copied = dict(line.split()[1:] for line in lines if line.startswith("COPY "))
        self.assertEqual(copied, {"nbguardd": "/usr/sbin/nbguardd", "nbguard": "/usr/bin/nbguard"})
        self.assertIn('ENTRYPOINT ["/usr/sbin/nbguardd"]', lines)


if __name__ == "__main__":
    unittest.main()
