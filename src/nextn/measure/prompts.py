"""The prompts of the engine check: short, plain text to continue, suitable for any language model.

How much drafting helps depends on the task: code and extraction repeat what is in the prompt, prose does not.
"""

from __future__ import annotations

PROMPTS: tuple[str, ...] = (
    # code
    'import csv\n\n\ndef read_rows(path):\n    """Read a CSV file and return a list of dictionaries."""\n'
    '    rows = []\n    with open(path, newline="") as file:\n',
    # code in another language
    "#include <stdio.h>\n\n/* Print the first n Fibonacci numbers, one per line. */\n"
    "int main(int argc, char **argv) {\n",
    # extraction
    "Order 4711: 3 chairs to Anna Berg, Oslo, paid 2024-03-01.\nOrder 4712: 1 desk to Paul Stone, Leeds, paid "
    '2024-03-04.\n\nAs JSON:\n[\n  {"order": 4711, "items": "3 chairs", "name": "Anna Berg",',
    # a story
    "The lighthouse had been dark for eleven years when Mira climbed its stairs for the first time. At the top "
    "she found",
    # plain prose
    "Bread is made from flour, water, salt and yeast. First the yeast is",
)
