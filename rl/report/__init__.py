"""report.html: what a run did, on one page that needs nothing else.

`write_report(run_dir)` reads what the run left (any of it may be missing) and draws. The page has no script and
fetches nothing; charts are inline SVG coloured by CSS variables, so that it follows the reader's light or dark.

inputs.py what is on disk · series.py curves · svg.py drawing · charts.py which charts · samples.py which answers
· page.py + page.html.j2 + style.css the page
"""

from rl.report.machine import describe_machine
from rl.report.page import write_report

__all__ = ["describe_machine", "write_report"]
