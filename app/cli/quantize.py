"""`mull quantize`: write a quantized checkpoint, and tell how near quantized models come to the original."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from app import config, figures
from app.cli.engine import failure
from app.cli.output import StatusLine, show, show_json, show_table, warn
from app.errors import CommandError
from engine.protocol import Failed
from engine.protocol.quantize import (
    Calibration,
    Completed,
    Making,
    Progress,
    Quality,
    QualityRow,
    QuantizationResult,
    QuantizeRequest,
    Written,
    decode_event,
    encode_line,
)

_LEAVE_S = 30.0
"""How long the work may take to stop and remove what it has written so far."""


@click.command(
    epilog="""\b
Examples:
  mull quantize Qwen/Qwen3-0.6B --to int4 qwen3-int4
  mull quantize ./model --to gptq ./model-gptq --calibration notes.txt --report
  mull quantize --report tiny
  mull quantize --report ./model ./model-gptq int4 int8
"""
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [OUT | OTHER…]")
@click.option(
    "--to", type=click.Choice(["int4", "int8", "gptq"]), help="Write a checkpoint to the folder OUT."
)
@click.option("--bits", type=click.Choice(["4", "8"]), help="Bits per weight of gptq: 4 unless told.")
@click.option(
    "--group",
    type=click.Choice(["128", "64", "32", "-1"]),
    help="Inputs that share a scale in gptq: 128 unless told; -1: all.",
)
@click.option("--desc-act", is_flag=True, help="In gptq, quantize the inputs first that matter most.")
@click.option(
    "--calibration",
    metavar="FILE",
    help="What gptq is shown: plain text, or JSON Lines with text. Without, what the model writes.",
)
@click.option(
    "--samples", type=click.IntRange(1), metavar="N", help="Texts that gptq is shown: 128 unless told."
)
@click.option(
    "--length", type=click.IntRange(16), metavar="N", help="Tokens of each at most: 512 unless told."
)
@click.option("--report", is_flag=True, help="Compare with the original: KL divergence, agreement, accuracy.")
@click.option(
    "--problems",
    type=click.IntRange(2),
    default=120,
    show_default=True,
    metavar="N",
    help="Problems of the bundled tasks that a report is over.",
)
@click.option("--device", metavar="cpu|cuda[:N]", help="Where to run.")
@click.option("--threads", type=int, metavar="N", help="CPU threads to run on.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def quantize(
    models: tuple[str, ...],
    to: str | None,
    report: bool,
    problems: int,
    as_json: bool,
    device: str | None,
    threads: int | None,
    **choices: Any,
) -> None:
    """Write a quantized checkpoint, or tell what quantizing costs, or both.

    int4 and int8 round every matrix without data and stream from file to file. gptq also looks at texts, and
    makes good in each matrix what rounding does to its outputs: slower, and nearer to the original. A report
    compares with the original what is written, other models, or int8, int4 and fp8 as --quant loads them.
    """
    configuration = config.load({"device": device, "threads": threads})
    for warning in configuration.warnings:
        warn(warning)
    making = _making(models, to, choices)
    if making is None and not report:
        raise click.UsageError("say what to write with --to, or ask for a --report")
    request = QuantizeRequest(
        model=models[0],
        making=making,
        report=report,
        others=() if making else models[1:],
        problems=problems,
        device=configuration.settings.device,
        threads=configuration.settings.threads,
    )
    result = _carry_out(request)
    if as_json:
        show_json(result)
        return
    if result.written is not None:
        _show_written(result.written)
    if result.quality is not None:
        _show_quality(result.quality)


def _making(models: tuple[str, ...], to: str | None, choices: dict[str, Any]) -> Making | None:
    """What is to be written. Raises UsageError where the options contradict each other."""
    given = [f"--{name.replace('_', '-')}" for name, value in choices.items() if value]
    if given and to != "gptq":
        raise click.UsageError(f"{given[0]} is of --to gptq")
    if to is None:
        return None
    if len(models) != 2:
        raise click.UsageError("--to takes one MODEL and the folder OUT")
    calibration = {"file": choices["calibration"], "samples": choices["samples"], "length": choices["length"]}
    numbers = {name: int(choices[name]) for name in ("bits", "group") if choices[name]}
    return Making(
        to=to,  # type: ignore[arg-type]
        out=models[1],
        descending=choices["desc_act"],
        calibration=Calibration(**{name: value for name, value in calibration.items() if value is not None}),
        **numbers,  # type: ignore[arg-type]
    )


def _carry_out(request: QuantizeRequest) -> QuantizationResult:
    """Have it done in a process of its own; interrupted, that removes what it has written and ends."""
    status = StatusLine()
    with tempfile.TemporaryFile() as log:
        with _started(log) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(encode_line(request) + b"\n")
                process.stdin.flush()
                for line in process.stdout:
                    match decode_event(line):
                        case Progress() as progress:
                            status.show(_progress(progress))
                        case Completed(result=result):
                            return result
                        case Failed() as failed:
                            raise failure(failed)
            except BrokenPipeError:
                pass  # it ended before it was asked: what it said is in the log
            finally:
                status.clear()
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    cause = f": {said[-1][:300]}" if said else ""
    raise CommandError(f"the work ended without a result (exit status {process.returncode}){cause}")


@contextmanager
def _started(log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process that does the work; afterwards it has ended."""
    # -P: a folder named `engine` in the working directory must not be imported for ours
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "engine.quantize"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # an interrupt on the terminal is for us to pass on
    )
    try:
        yield process
    finally:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already
        try:
            process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _progress(progress: Progress) -> str:
    count = f" {figures.count(progress.done)} of {figures.count(progress.total)}" if progress.total else ""
    left = progress.seconds_left
    return f"{progress.stage}{count}{f' · {figures.seconds(left)} left' if left else ''}…"


def _show_written(written: Written) -> None:
    show(
        f"{written.path}: {written.format}, {figures.count(written.matrices)} matrices quantized, "
        f"{figures.size(written.bytes)} instead of {figures.size(written.bytes_before)}"
    )
    if written.calibration:
        show(f"calibrated on {written.calibration}")
    if written.rounded:
        show(
            f"{figures.count(written.rounded)} matrices are of experts that these sent too few tokens to, "
            "and rounded without any"
        )


def _show_quality(quality: Quality) -> None:
    show(
        f"{figures.count(quality.problems)} problems, {figures.count(quality.tokens)} tokens "
        f"that the original writes greedily, computed in {quality.dtype}"
    )
    show("")
    headings = ("", "size", "bytes/weight", "KL, nats/token", "same top token", "solved")
    show_table(headings, [_row(row) for row in quality.rows])


def _row(row: QualityRow) -> tuple[str, str, str, str, str, str]:
    kl, error = row.kl.value, row.kl_error.value
    agreement, accuracy = row.agreement.value, row.accuracy.value
    return (
        row.name,
        figures.quantity(row.bytes, mark=False),
        f"{row.bytes_per_weight.value:.3f}",
        "" if kl is None else f"{kl:.3g} ± {error:.1g}",
        "" if agreement is None else f"{agreement:.2%}",
        f"{accuracy:.1%}",
    )
