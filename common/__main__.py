"""`python -m common <verb>`."""

import sys

from common.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
