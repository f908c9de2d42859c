"""Whether this is the library, or its code that travels with a model.

What stands in `if not TRAVELS:` is left out there: it limits what a stranger's configuration may ask for, and whoever
wrote the configuration beside the code may have written the code too.
"""

TRAVELS = __name__.partition(".")[0] == "transformers_modules"  # where transformers imports a repo's own code
