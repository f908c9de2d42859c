"""Whether this is the library itself, or a copy of its code that was exported with a model.

Blocks of `if not TRAVELS:` are not exported: they hold the rules for what a stranger's configuration may ask for, but
who wrote the configuration in a repo may have written the code beside it too; and the rules for a new model.
"""

TRAVELS = __name__.partition(".")[0] == "transformers_modules"  # where transformers imports a repo's own code
