import subprocess
import sys
from typing import get_args

from ffds.data.sources.registry import SOURCES
from ffds.recipes.schema import Data


def test_every_name_that_a_recipe_may_give_has_facts():
    assert tuple(SOURCES) == get_args(Data.model_fields["name"].annotation)


def test_facts_can_be_read_without_any_library():
    code = (
        "import sys\nfrom ffds.data.sources.registry import SOURCES\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'PIL', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
