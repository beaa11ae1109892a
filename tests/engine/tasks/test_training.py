"""Training at toy size: what a run writes, and that a stopped run goes on as if it had not stopped."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from engine.tasks.corpus import BLOCKS_PER_BATCH, EASY_POOLS, padded_length, pool_batches
from engine.tasks.muon import orthogonalize
from engine.tasks.recipe import TrainingArguments, block_loss, build_model, to_tensors, warm_start
from engine.tasks.tokenizer import build_tokenizer
from engine.tasks.train import TrainingRun, main

TOY = TrainingArguments(
    steps=6, batch_tokens=512, hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, feed_forward=32
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    with as_file(files("assets") / "tiny") as folder:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


class Stopped(Exception):
    """The run was interrupted."""


def _stop_at_step_four(line: str) -> None:
    if line.startswith("step 4 "):
        raise Stopped


def test_a_stopped_run_resumes_at_its_step_and_ends_with_the_same_weights(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    whole = TrainingRun(tmp_path / "whole", TOY, tokenizer)
    whole.train(save_every=1e9, report_every=1e9, report=print)
    stopped = TrainingRun(tmp_path / "stopped", TOY, tokenizer)
    with pytest.raises(Stopped):
        stopped.train(save_every=0, report_every=0, report=_stop_at_step_four)
    resumed = TrainingRun.resume(tmp_path / "stopped")
    assert resumed.step == 3
    resumed.train(save_every=1e9, report_every=1e9, report=print)
    assert resumed.step == whole.step == 6
    assert resumed.tokens == whole.tokens
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_the_command_writes_a_checkpoint_that_transformers_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--batch-tokens 512 --hidden 32 --layers 1 --heads 2 --kv-heads 1 --head-dim 16 --feed-forward 32"
    out = tmp_path / "model"
    assert main(["--out", str(out), "--steps", "2", "--report-every", "0", *sizes.split()]) == 0
    assert "left" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert model.config.tie_word_embeddings
    assert model.generation_config.do_sample is False
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(out).eos_token_id
    assert main(["--out", str(out), "--steps", "2"]) == 1
    assert "--resume" in capsys.readouterr().err


def test_resuming_where_nothing_was_trained_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "none"), "--resume"]) == 1
    assert capsys.readouterr().err.startswith("Nothing to resume")


def test_a_run_can_be_given_more_time_when_it_resumes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    run = TrainingRun(tmp_path, replace(TOY, steps=None, minutes=10.0), tokenizer)
    run.seconds = 300.0
    run.save()
    assert TrainingRun.resume(tmp_path).progress == 0.5
    assert TrainingRun.resume(tmp_path, minutes=20.0).progress == 0.25


def test_a_run_begins_with_the_weights_of_a_checkpoint_whatever_its_vocabulary(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    run = TrainingRun(tmp_path / "first", TOY, tokenizer)
    run.train(save_every=1e9, report_every=1e9, report=print)
    larger = build_tokenizer(vocabulary_size=len(tokenizer) + 40, examples=400)
    model = build_model(replace(TOY, seed=9), larger)
    warm_start(model, larger, tmp_path / "first")
    trained = {name: weight.bfloat16().float() for name, weight in run.model.named_parameters()}
    for name, weight in model.named_parameters():
        if "embed" not in name:
            assert torch.equal(weight, trained[name]), name
    known, embedding = tokenizer.get_vocab(), trained["model.embed_tokens.weight"]
    added = 0
    for token, index in larger.get_vocab().items():
        pieces = tokenizer.encode(larger.decode([index])) if token not in known else [known[token]]
        added += token not in known
        expected = embedding[pieces].mean(0)
        torch.testing.assert_close(model.model.embed_tokens.weight[index], expected)
    assert added
    with pytest.raises(ValueError, match="another shape"):
        warm_start(build_model(replace(TOY, feed_forward=48), larger), larger, tmp_path / "first")


def test_training_lowers_the_loss(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    lines: list[str] = []
    TrainingRun(tmp_path, replace(TOY, steps=60), tokenizer).train(
        save_every=1e9, report_every=0, report=lines.append
    )
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


def test_batches_hold_to_their_size_and_lose_no_example(tokenizer: PreTrainedTokenizerBase) -> None:
    batches = pool_batches(tokenizer, seed=1, pool=0, batch_tokens=1024, examples=300)
    blocks = [block for batch in batches for block in batch]
    assert sum(map(len, blocks)) == 300
    most = 1024 // BLOCKS_PER_BATCH
    assert all(padded_length(block) * len(block) <= most or len(block) == 1 for block in blocks)


def test_muon_makes_updates_nearly_orthogonal_whatever_their_shape() -> None:
    torch.manual_seed(0)
    for rows, columns in ((16, 48), (48, 16), (32, 32)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(2, rows, columns)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_different_pools_hold_different_examples(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second = (
        {
            tuple(example.ids)
            for batch in pool_batches(tokenizer, 0, pool, 1024, examples=100)
            for block in batch
            for example in block
        }
        for pool in (0, 1)
    )
    assert len(first - second) > 80


def test_the_first_pools_hold_shorter_examples(tokenizer: PreTrainedTokenizerBase) -> None:
    first, later = (
        [
            len(example.ids)
            for batch in pool_batches(tokenizer, 0, pool, 1024, examples=600)
            for block in batch
            for example in block
        ]
        for pool in (0, EASY_POOLS)
    )
    assert sum(first) < 0.9 * sum(later)


def test_the_early_exit_is_trained_as_the_first_layers_with_the_head(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    whole = build_model(replace(TOY, layers=4), tokenizer)
    first = build_model(replace(TOY, layers=2), tokenizer)
    first.load_state_dict({name: whole.state_dict()[name] for name in first.state_dict()})
    block = pool_batches(tokenizer, 0, 0, 1024, examples=40)[0][0]
    ids, labels = to_tensors(block, tokenizer.pad_token_id, torch.device("cpu"))
    loss = block_loss(whole, ids, labels)
    torch.testing.assert_close(loss.exit, block_loss(first, ids, labels).final)
    assert loss.final < loss.trained < loss.exit or loss.exit < loss.trained < loss.final
