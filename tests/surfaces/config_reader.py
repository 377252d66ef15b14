"""What LiteLLM makes of the configuration at this path, or at CONFIG_FILE_PATH: all its includes merged, and what the Python
modules say that its callbacks name. One line of JSON on standard output.
"""

import asyncio
import json
import os
import sys

from litellm.proxy.proxy_server import ProxyConfig
from litellm.proxy.types_utils.utils import get_instance_fn

path = sys.argv[1] if len(sys.argv) > 1 else os.environ["CONFIG_FILE_PATH"]
config = asyncio.run(ProxyConfig()._get_config_from_file(path))
callbacks = config["litellm_settings"]["callbacks"]
print(json.dumps({"config": config, "modules": [get_instance_fn(name, path) for name in callbacks]}))
