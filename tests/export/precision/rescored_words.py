"""Words and the option of tests of `--decoder-precision int8-rescored`."""

WORDS = ("<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(196)))
OPTION = ("--decoder-precision", "int8-rescored")
