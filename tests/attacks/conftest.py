import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))  # for `films`
sys.path.insert(0, str(Path(__file__).parent))  # for the modules of the attacks themselves
