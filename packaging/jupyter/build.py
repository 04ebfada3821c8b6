"""Writes the wheel: python3 build.py [--out FOLDER]. Also pip's build backend.

The same sources give the same bytes: sorted names, fixed times, nothing compressed (zlib's
versions differ). Nothing is downloaded and no Node is needed: the Lab extension's modules are
joined into one script as they are, in the shape that JupyterLab loads (labextension/src/entry.js).
"""

import argparse
import base64
import hashlib
import json
import pathlib
import re
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
NAME = "nbguard_jupyter"
LABEXTENSION = "nbguard-jupyter"
# In this order: each may use what stands before it.
MODULES = ["text", "poll", "panel", "items", "notices", "plugin", "entry"]
# The oldest time that a zip can hold.
TIME = (1980, 1, 1, 0, 0, 0)

METADATA = """\
Metadata-Version: 2.1
Name: nbguard-jupyter
Version: {version}
Summary: The memory of this container and its notebooks in Jupyter, and the reason when one was ended
License: Apache-2.0
Keywords: jupyter,jupyterlab-extension,memory,oom
Classifier: Framework :: Jupyter
Classifier: Framework :: Jupyter :: JupyterLab
Classifier: Framework :: Jupyter :: JupyterLab :: 4
Classifier: Framework :: Jupyter :: JupyterLab :: Extensions
Classifier: Framework :: Jupyter :: JupyterLab :: Extensions :: Prebuilt
Classifier: License :: OSI Approved :: Apache Software License
Classifier: Programming Language :: Python :: 3
Requires-Python: >=3.8
Requires-Dist: jupyter_server>=2.0
Description-Content-Type: text/markdown

{readme}"""

WHEEL = """\
Wheel-Version: 1.0
Generator: nbguard
Root-Is-Purelib: true
Tag: py3-none-any
"""


def version():
    source = (HERE / NAME / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.M)[1]


def script():
    """The Lab extension: one script that JupyterLab's loader takes as a module container."""
    style = (HERE / "labextension/style.css").read_text(encoding="utf-8")
    parts = ["(() => {\n'use strict';\n", "const STYLE = {};\n".format(json.dumps(style))]
    for module in MODULES:
        parts.append((HERE / "labextension/src/{}.js".format(module)).read_text(encoding="utf-8"))
    return "\n".join(parts + ["})();\n"])


def labextension():
    """Path below the extension's folder → bytes."""
    code = script().encode()
    # The name changes with the content, so that no browser keeps an old one.
    load = "static/remoteEntry.{}.js".format(hashlib.sha256(code).hexdigest()[:20])
    package = json.loads((HERE / "labextension/package.json").read_text(encoding="utf-8"))
    package["version"] = version()
    package["jupyterlab"]["_build"] = {"load": load, "extension": "./extension"}
    schema = (HERE / "labextension/schema/plugin.json").read_bytes()
    install = {"packageManager": "python", "packageName": "nbguard-jupyter",
               "uninstallInstructions": "pip uninstall nbguard-jupyter"}
    return {
        load: code,
        "package.json": as_json(package),
        "install.json": as_json(install),
        "schemas/{}/plugin.json".format(LABEXTENSION): schema,
        # JupyterLab looks for the extension's own description here.
        "schemas/{}/package.json.orig".format(LABEXTENSION): as_json(package),
    }


def as_json(value):
    return (json.dumps(value, indent=2) + "\n").encode()


def files():
    """Path in the wheel → bytes, all but the RECORD."""
    info = "{}-{}.dist-info".format(NAME, version())
    data = "{}-{}.data/data".format(NAME, version())
    found = {"{}/{}".format(NAME, path.name): path.read_bytes() for path in (HERE / NAME).glob("*.py")}
    for path, content in labextension().items():
        found["{}/share/jupyter/labextensions/{}/{}".format(data, LABEXTENSION, path)] = content
    enabled = {"ServerApp": {"jpserver_extensions": {NAME: True}}}
    found["{}/etc/jupyter/jupyter_server_config.d/{}.json".format(data, NAME)] = as_json(enabled)
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    found["{}/METADATA".format(info)] = METADATA.format(version=version(), readme=readme).encode()
    found["{}/WHEEL".format(info)] = WHEEL.encode()
    found["{}/LICENSE".format(info)] = (HERE.parent.parent / "LICENSE").read_bytes()
    return found


def write_wheel(folder):
    """Returns the wheel's path."""
    found = files()
    record = "{}-{}.dist-info/RECORD".format(NAME, version())
    lines = []
    for path in sorted(found):
        digest = base64.urlsafe_b64encode(hashlib.sha256(found[path]).digest()).rstrip(b"=").decode()
        lines.append("{},sha256={},{}\n".format(path, digest, len(found[path])))
    found[record] = "".join(lines + ["{},,\n".format(record)]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "{}-{}-py3-none-any.whl".format(NAME, version())
    with zipfile.ZipFile(str(wheel), "w", zipfile.ZIP_STORED) as archive:
        # By the wheel's rules the dist-info stands last.
        for path in sorted(found, key=lambda path: (".dist-info/" in path, path)):
            entry = zipfile.ZipInfo(path, TIME)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, found[path])
    return wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """What pip calls."""
    return write_wheel(pathlib.Path(wheel_directory)).name


def main():
    parser = argparse.ArgumentParser(description="Writes the wheel of nbguard-jupyter.")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "dist", help="the folder it goes to")
    print(write_wheel(parser.parse_args().out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
