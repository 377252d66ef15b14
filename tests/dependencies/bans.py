"""Compares what Cargo.lock brings in with deny.toml: banned crates, crates that only some may use, and sources.

The same rules as `cargo deny check bans sources`, without a tool that takes minutes to build.
"""

import json
import subprocess
import sys
import tomllib


def graph(target):
    """The packages that are built for this target, by id."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    return {node["id"]: (packages[node["id"]], node["dependencies"]) for node in metadata["resolve"]["nodes"]}


def violations(rules, nodes):
    banned = {ban["crate"]: ban for ban in rules["bans"]["deny"]}
    registries = {f"registry+{registry}" for registry in rules["sources"]["allow-registry"]}
    for package, dependencies in nodes.values():
        name, source = package["name"], package["source"]
        if source is not None and source not in registries:
            yield f"{name} comes from {source}, which [sources] in deny.toml does not allow"
        if name in banned and "wrappers" not in banned[name]:
            yield f"{name} is banned by deny.toml: {banned[name]['reason']}"
        for dependency in (nodes[id][0]["name"] for id in dependencies):
            if name not in banned.get(dependency, {}).get("wrappers", [name]):
                yield f"{name} depends on {dependency}, which deny.toml bans: {banned[dependency]['reason']}"


def main():
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    found = {text for target in rules["graph"]["targets"] for text in violations(rules, graph(target))}
    if found:
        sys.exit("\n".join(f"error: {text}" for text in sorted(found)))


if __name__ == "__main__":
    main()
