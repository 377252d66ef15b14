import importlib.metadata, importlib.util, json, os, re, site, sys


def text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def source(name):
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec and spec.origin and spec.origin.endswith(".py") else None


def run_at_start():
    """What Python runs before any program: lines of .pth files that import something, and the two modules of the site."""
    for folder in {*site.getsitepackages(), site.getusersitepackages()}:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            lines = text(os.path.join(folder, name)).splitlines() if name.endswith(".pth") else []
            code = "\n".join(line for line in lines if line.startswith(("import ", "import\t")))
            if "litellm" in code:
                yield os.path.join(folder, name)
            yield from filter(None, map(source, re.findall(r"\bimport\s+([A-Za-z_]\w*)", code)))
    yield from filter(None, map(source, ("sitecustomize", "usercustomize")))


package = importlib.metadata.distribution("litellm")
answer = {
    "version": package.version,
    "root": str(package.locate_file("")),
    "record": package.read_text("RECORD"),
    "module": importlib.util.find_spec("litellm").origin,
}
# The folder of this process is no place that they are taken from.
sys.path = [folder for folder in sys.path if folder]
answer["hooks"] = sorted({path for path in run_at_start() if "litellm" in text(path)})
print(json.dumps(answer))
