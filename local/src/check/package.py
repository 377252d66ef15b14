import ast, importlib.metadata, importlib.util, json, os, site, sys


def text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def source(name):
    try:
        spec = importlib.util.find_spec(name)
    except (AttributeError, ImportError, ValueError):
        return None
    return spec.origin if spec and spec.origin and spec.origin.endswith(".py") else None


def imported(line):
    """The modules that a line of Python imports by statements, with what may be a module in one of them."""
    try:
        statements = list(ast.walk(ast.parse(line)))
    except (SyntaxError, ValueError):
        return
    for statement in statements:
        names = [alias.name for alias in getattr(statement, "names", []) if isinstance(alias, ast.alias)]
        if isinstance(statement, ast.Import):
            yield from names
            yield from (name.split(".")[0] for name in names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield statement.module.split(".")[0]
            yield from (f"{statement.module}.{name}" for name in names)


def run_at_start():
    """What Python runs before any program: lines of .pth files that import something, and the two modules of the site."""
    # Without it Python does not look there.
    of_user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    for folder in {*site.getsitepackages(), *of_user}:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            lines = text(os.path.join(folder, name)).splitlines() if name.endswith(".pth") else []
            for line in lines:
                if line.startswith(("import ", "import\t")):
                    if "litellm" in line:
                        yield os.path.join(folder, name)
                    yield from filter(None, map(source, imported(line)))
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
