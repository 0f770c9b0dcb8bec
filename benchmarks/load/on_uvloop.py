"""Runs a server on uvloop's event loop, where `pip install uvloop` has been done.

python benchmarks/load/on_uvloop.py -m resonnx_server --repository models
python benchmarks/load/on_uvloop.py benchmarks/floor/bare_server.py MODEL_FILE --echo

The server's own options follow its name.
"""

import asyncio
import runpy
import sys

import uvloop

if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    _, first, *others = sys.argv
    if first == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *others]
        runpy.run_path(first, run_name="__main__")
