#!/usr/bin/env python3
"""Writes the SBOM (CycloneDX 1.5) of the agent and its GPU probe, and the licenses of linked crates.

sbom.py ARCH SBOM LICENSES

Lists linked crates only: no build dependencies, procedural macros or dev-dependencies. Fails if a license is not in ACCEPTED or
a crate has no license file."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Each only requires that its text accompanies the program. CDLA-Permissive-2.0 is for data: Mozilla's list of certificate
# authorities in webpki-roots.
ACCEPTED = {"MIT", "Apache-2.0", "ISC", "BSD-3-Clause", "0BSD", "Zlib", "Unlicense", "CDLA-Permissive-2.0"}
TEXT = re.compile("licen[sc]e|copying|notice|copyright", re.IGNORECASE)


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked_crates(arch):
    """Names and versions of the crates linked into the agent and the probe."""
    crates = set()
    for target, features in (("musl", []), ("gnu", ["--workspace", "--features", "gpu-probe/nvml"])):
        lines = run("cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none",
                    "--target", f"{arch}-unknown-linux-{target}", "--format", "{p}", *features)
        crates.update(tuple(line.split()[:2]) for line in lines.splitlines() if line.strip())
    return {(name, version.removeprefix("v")) for name, version in crates}


def alternatives(expression):
    """The accepted alternatives of an SPDX expression such as `MIT OR Apache-2.0`, or in the old form `MIT/Apache-2.0`; each is
    a set of licenses that apply together."""
    if "(" in expression:
        raise SystemExit(f"sbom: cannot parse license expression \"{expression}\"")
    found = [set(part.split(" AND ")) for part in re.split(" OR | ?/ ?", expression)]
    return [licenses for licenses in found if licenses <= ACCEPTED]


def texts(package, chosen):
    """Texts of a crate's license files: those of the chosen license if their names tell, else all."""
    directory = pathlib.Path(package["manifest_path"]).parent
    found = sorted(path for path in directory.iterdir() if path.is_file() and TEXT.search(path.name))
    named = [path for path in found if chosen == {"MIT"} and "MIT" in path.name.upper()]
    if not found:
        raise SystemExit(f"sbom: {package['name']} {package['version']} has no license file")
    return [path.read_text(errors="replace").strip() for path in named or found]


def licenses(packages, rust):
    """THIRD-PARTY.txt: each license text once, with the crates that use it."""
    by_text = {}
    for package in packages:
        accepted = alternatives(package["license"] or "")
        if not accepted:
            raise SystemExit(f"sbom: {package['name']} has a license that is not accepted: {package['license']}")
        chosen = {"MIT"} if {"MIT"} in accepted else accepted[0]
        for text in texts(package, chosen):
            by_text.setdefault(text, []).append(f"{package['name']} {package['version']} ({package['license']})")
    apache = (ROOT / "LICENSE-APACHE").read_text().strip()
    by_text.setdefault(apache, []).append(f"the Rust standard library {rust}, copyright The Rust Project Developers "
                                          "(MIT OR Apache-2.0)")
    by_text[(ROOT / "packaging/licenses/musl.txt").read_text().strip()] = ["musl, the C library (MIT)"]
    parts = ["Third-party code in hm-agent, and its licenses."]
    for text, users in sorted(by_text.items(), key=lambda part: part[1]):
        parts.append("=" * 78 + "\n" + "\n".join(sorted(users)) + "\n" + "-" * 78 + "\n" + text)
    return "\n\n".join(parts) + "\n"


def sbom(packages, own, nodes, rust, arch):
    """CycloneDX 1.5. Reproducible: its timestamp is the commit's."""
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in
                 tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    # Packages of this repository are in no registry.
    purl = lambda p: f"pkg:{'cargo' if p['source'] else 'generic'}/{p['name']}@{p['version']}"

    def component(package, kind):
        entry = {"type": kind, "bom-ref": purl(package), "name": package["name"], "version": package["version"],
                "licenses": [{"expression": re.sub(" ?/ ?", " OR ", package["license"])}], "purl": purl(package)}
        checksum = checksums.get((package["name"], package["version"]))
        return entry | ({"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {})

    by_id = {package["id"]: package for package in [own, *packages]}
    graph = [{"ref": purl(by_id[node["id"]]),
              "dependsOn": sorted(purl(by_id[of]) for of in node["dependencies"] if of in by_id)}
             for node in nodes if node["id"] in by_id]
    system = [{"type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": rust,
               "licenses": [{"expression": "MIT OR Apache-2.0"}]},
              {"type": "library", "bom-ref": "musl", "name": "musl", "licenses": [{"expression": "MIT"}]}]
    time = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    name = f"hm-agent {own['version']} {os.environ.get('HM_COMMIT', '')} {arch}"
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}",
            "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": component(own, "application")},
            "components": [component(package, "library") for package in packages] + system,
            "dependencies": sorted(graph, key=lambda of: of["ref"])}


def main():
    arch, sbom_file, license_file = sys.argv[1:]
    metadata = json.loads(run("cargo", "metadata", "--format-version", "1", "--locked", "--features", "gpu-probe/nvml",
                              "--filter-platform", f"{arch}-unknown-linux-gnu"))
    linked = linked_crates(arch)
    packages = sorted((p for p in metadata["packages"] if (p["name"], p["version"]) in linked),
                      key=lambda p: (p["name"], p["version"]))
    own = next(p for p in packages if p["name"] == "hm-agent")
    packages.remove(own)
    missing = linked - {(p["name"], p["version"]) for p in [own, *packages]}
    if missing:
        raise SystemExit(f"sbom: linked but unknown to cargo metadata: {missing}")
    rust = run("rustc", "--version").split()[1]
    # Packages of this repository have no source. Their license is that of hm-agent.
    pathlib.Path(license_file).write_text(licenses([p for p in packages if p["source"]], rust))
    document = sbom(packages, own, metadata["resolve"]["nodes"], rust, arch)
    pathlib.Path(sbom_file).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


main()
