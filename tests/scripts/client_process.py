"""A fresh process that imports the modules that it is given, and runs what it is told on stdin, a JSON line a time.

{"code": "..."} is executed; the answer has what the code left in `result`, or the error with its class's ancestors.
"""

import importlib
import json
import sys
import traceback

answers = sys.stdout
sys.stdout = sys.stderr
names = {name: importlib.import_module(name) for name in sys.argv[1:]}
for line in sys.stdin:
    space = dict(names)
    try:
        exec(json.loads(line)["code"], space)
        answer = {"result": space.get("result")}
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        answer = {"error": str(error), "kinds": kinds, "trace": traceback.format_exc()[-3000:]}
    print(json.dumps(answer), file=answers, flush=True)
