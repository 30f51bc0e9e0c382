"""`saefeat demo`: the main job end to end, on this machine, in a few minutes."""

from __future__ import annotations

from pathlib import Path

import click

from saefeat.cli.build import quality_line
from saefeat.cli.common import Settings
from saefeat.cli.progress import stages

EPILOG = """\b
Examples:
  saefeat demo
  saefeat demo --out demo/
  saefeat -q demo > demo.txt
"""


@click.command(epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), help="Where to build (default: $SAEFEAT_HOME/demo).")
@click.pass_obj
def command(settings: Settings, out: Path | None) -> None:
    """The whole chain on the embedded default model, then three queries, cards and a report.

    Fetches SmolLM2-135M-Instruct once (93 MB), harvests its residual stream at layer 19 on half of the shipped stories,
    trains a small sparse autoencoder, labels its features with 171 emotions, builds the index and asks it. A second
    run reuses what is done. The atlas that ships is larger and better: this one shows that the chain works here.
    """
    from saefeat.atlas import Atlas
    from saefeat.cards import demo_report, export_cards
    from saefeat.files import home
    from saefeat.pipeline import DEMO_QUERIES, demo, demo_config
    from saefeat.subject import fetch, is_fetched

    where = out or home() / "demo"
    model = demo_config().subject.model
    with stages(settings) as report:
        if not is_fetched(model):
            fetch(model, on_progress=report(f"fetch {model}"))
        built = demo(where, report=report)

        atlas = Atlas.open(built.atlas)
        report("queries")
        results = list(atlas.nearest(DEMO_QUERIES, top=5, tokens=True))
        tops = [result["emotions"][0]["emotion"] for result in results]
        report("cards")
        cards = export_cards(atlas, emotions=sorted(set(tops)), format="html", out=where / "cards")
        page = demo_report(
            atlas, results, where / "report.html", texts=DEMO_QUERIES, quality=built.quality, cards=cards
        )

    click.echo(quality_line(built.quality))
    for text, result in zip(DEMO_QUERIES, results, strict=True):
        click.echo(f"\n“{text if len(text) < 90 else text[:86].rsplit(' ', 1)[0] + ' …'}”")
        for row in result["emotions"]:
            click.echo(f"  {row['score']:6.2f}  {row['emotion']}")
    click.echo(f"\nFeatures that carry {tops[0]!r}:")
    for row in atlas.features(tops[0], top=3):
        click.echo(f"  {row['feature']:10}  AUROC within topics {row['auroc']:.2f}")
    click.echo(f"\nreport  {page}\ncards   {where / 'cards'}\natlas   {built.atlas}")
    click.echo(f'\nNext: saefeat --atlas {built.atlas} nearest "your own text"')
