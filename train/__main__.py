"""`python -m twinstream.train` is `twinstream train`, for torchrun:

torchrun --nproc-per-node 2 -m twinstream.train --out RUN
"""

import sys

from twinstream.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
