"""Training of the embedded checkpoint: batched encoders equal the stock ones, packed rows equal the product's prefill,
a few steps lower the loss, and the shipped checkpoint still gives its stored answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omnidrop.model import OmniModel, Request
from omnidrop.models.base import ClipPrompt
from omnidrop.models.checkpoints import EMBEDDED
from omnidrop.pruning import Pruning
from pipeline.toy_world import COLOURS, PLACES, SHAPES, SOUNDS, Event, questions_of
from pipeline.toy_world.render import Painter, wave_of
from pipeline.toy_world.truth import VOICES, WORDS
from pipeline.toy_world.world import events_of, generator_of
from pipeline.toy_world.writing import shipped_faces
from training.tiny import binding, facts, perception, stages, stored
from training.tiny.architecture import ALL_FILES, deepen, fresh, load, save, thinker_config
from training.tiny.clips import WHOLE_WEIGHT, Curriculum, Packer, collate, draw_row
from training.tiny.encoders import CELL, frame_size, hear, mels_of, patches_of, see
from training.tiny.optim import Optimiser, schedule
from training.tiny.samples import FIRST_WRITTEN, IGNORED, busy_picture_batch, page_batch, picture_batch, sound_batch
from training.tiny.sources import Clip, EncodedSource, IdealSource
from training.tiny.tables import table_batch
from training.tiny.tokenizer import build_tokenizer, token_ids

EASY = Curriculum(most_events=2, longest_s=8, full_share=0.0, thin_share=1.0, questions=6)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return fresh(tokenizer).eval()


def test_every_answer_is_one_token_and_any_text_round_trips(tokenizer):
    answers = [*SHAPES, *COLOURS, *SOUNDS, *WORDS, *VOICES, "none", "yes", "no", *"0123456", *"ABCDEF"]
    assert len(set(token_ids(tokenizer, answers))) == len(answers)
    for text in ("What colour is the circle?", "größe 漢字 🙂\n\ttab", "Is a rising sweep heard? no", "low tones"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    specials = "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|><|im_end|>"
    assert len(tokenizer.encode(specials)) == 7
    assert tokenizer.decode(tokenizer.encode(specials), skip_special_tokens=True) == "user\n"


def test_the_start_is_the_same_every_time_and_small(tokenizer, model):
    again = fresh(tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert sum(weight.numel() for weight in model.parameters()) < 10_000_000
    assert thinker_config(tokenizer).text_config.num_hidden_layers == 12


def test_a_saved_checkpoint_loads_back_in_the_published_layout(tokenizer, model, tmp_path):
    save(model, tokenizer, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(ALL_FILES)
    assert (tmp_path / "model.safetensors").stat().st_size < 20_000_000
    loaded, words = load(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.to(torch.bfloat16).float())
    assert words.get_vocab() == tokenizer.get_vocab()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5OmniForConditionalGeneration"]
    assert "talker_config" not in config


@pytest.mark.parametrize(("height", "width"), [(360, 640), (640, 360), (480, 480), (480, 640), (720, 1280), (240, 426)])
def test_batched_vision_equals_the_stock_encoder(model, height, width):
    tall, wide = frame_size(height, width)
    assert min(tall, wide) >= 112
    frames = torch.randint(0, 256, (2, 2, tall, wide, 3), dtype=torch.uint8)
    patches = patches_of(frames)
    grid = torch.tensor([[1, tall // 14, wide // 14]] * 2)
    with torch.no_grad():
        stock = model.model.visual(patches.flatten(0, 1), grid).pooler_output
        ours = see(model.model.visual, patches, tall // 28, wide // 28).flatten(0, 1)
    torch.testing.assert_close(ours, stock, atol=2e-5, rtol=1e-4)


def test_batched_hearing_equals_the_stock_encoder(model):
    waves = 0.1 * torch.randn(2, 6 * 16_000)
    mels = mels_of(waves)
    with torch.no_grad():
        stock = model.model.audio_tower(torch.cat(list(mels), 1), feature_lens=torch.tensor([240, 240]))
        ours = hear(model.model.audio_tower, mels).flatten(0, 1)
    torch.testing.assert_close(ours, stock.last_hidden_state, atol=2e-5, rtol=1e-4)


def test_a_packed_training_row_is_the_products_packed_prefill(tokenizer, model, tmp_path):
    """Same clip, same questions: the answers that training reads are those that OmniModel gives."""
    save(model, tokenizer, tmp_path)
    rounded, _ = load(tmp_path)
    rounded.eval()
    product = OmniModel.load(str(tmp_path), device="cpu", dtype="float32")
    _, events = events_of("v1", 5, length_s=8, count=2)
    painter = Painter("v1", events, generator_of("v1", 5, "picture"))
    frames = np.stack([painter.frame(number / 2, 112, 196) for number in range(16)])
    wave = wave_of(events, 8, generator_of("v1", 5, "sound"))
    asked = questions_of(events, most=8)
    said = product.answer(
        frames, wave, Request([one.question for one in asked], fps=2.0, pruning=Pruning.off("dense_shared"))
    ).answers
    prefix = product.adapter.prefix(frames, wave, ClipPrompt(2.0))
    with torch.no_grad():
        video = perception.view(rounded, torch.from_numpy(frames).view(8, 2, 112, 196, 3))
        # The product pads the wave by one window of zeros before the transform, as the stock processor does.
        padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, 400))[None]
        audio = hear(rounded.model.audio_tower, mels_of(padded)[..., :320])[0]
        row = Packer(tokenizer).row(Clip(events, video, 4, 7, 1.0, audio), asked, None)
        batch = collate([row])
        count = len(prefix.input_ids)
        assert batch.ids[0, :count].tolist() == prefix.input_ids.tolist()
        torch.testing.assert_close(batch.positions[:, 0, :count], prefix.positions)
        final, _ = binding.forward(rounded, batch)
        packer = Packer(tokenizer)
        for (place, one), answer in zip(row.asked, said, strict=True):
            ids = [packer.ids(option)[0] for option in one.question.answer.rendered()]
            chances = rounded.lm_head(final[0, place])[ids].softmax(-1)
            # An option's probability is over the allowed ones alone.
            assert float(chances.max()) == pytest.approx(answer.probability, abs=2e-3)


def test_ideal_and_encoded_clips_pack_alike(tokenizer, model):
    packer = Packer(tokenizer)
    words = perception.words_of(model, tokenizer)
    stage = Curriculum(most_events=2, longest_s=8, full_share=1.0, thin_share=0.0, questions=4)
    for source in (IdealSource(words), EncodedSource(model, torch.device("cpu"))):
        row = draw_row(packer, source, np.random.default_rng(0), stage)
        batch = collate([row])
        assert int((batch.media == 1).sum()) == len(batch.video) == row.clip.video.shape[0] * row.clip.video.shape[1]
        assert int((batch.media == 2).sum()) == len(batch.audio)
        mask = batch.mask[0, 0]
        first, second = (torch.tensor(row.group == number) for number in (1, 2))
        assert not mask[second][:, first].any()
        assert mask[second][:, torch.tensor(row.group == 0)].all()


def test_twenty_steps_lower_the_decoders_loss(tokenizer):
    torch.manual_seed(0)
    model = fresh(tokenizer)
    words = perception.words_of(model, tokenizer)
    packer, source = Packer(tokenizer), IdealSource(words)
    knowing = binding.Knowing(words)
    optimiser = Optimiser([model.model.language_model, model.lm_head, knowing], 2e-3)
    seen = []
    for step in range(20):
        batch = collate([draw_row(packer, source, np.random.default_rng(step), EASY) for _ in range(2)])
        answer, known, _ = binding.losses(model, batch, knowing, binding.FIRST_LAYERS)
        (answer + known).backward()
        optimiser.step(schedule(step + 20, 1000))
        seen.append((float(answer.detach()), float(known.detach())))
    early, late = np.mean(seen[:4], 0), np.mean(seen[-4:], 0)
    assert late[0] < 0.8 * early[0]
    assert late[1] < early[1]


def test_twenty_steps_lower_the_encoders_loss(tokenizer):
    model = fresh(tokenizer)
    words = perception.words_of(model, tokenizer)
    optimiser = Optimiser([model.model.visual, model.model.audio_tower], 2e-3)
    seen = []
    for step in range(20):
        pictures = picture_batch(np.random.default_rng(step), 12, cut=True)
        sounds = sound_batch(np.random.default_rng(step), 2, 4.0)
        looked = perception.picture_loss(perception.view(model, pictures.frames), pictures, words)
        heard = perception.sound_loss(hear(model.model.audio_tower, mels_of(sounds.waves)), sounds, words)
        (looked + heard).backward()
        optimiser.step(schedule(step + 20, 1000))
        seen.append((float(looked.detach()), float(heard.detach())))
    early, late = np.mean(seen[:4], 0), np.mean(seen[-4:], 0)
    assert (late < 0.9 * early).all()


def test_growing_the_decoder_changes_no_answer(tokenizer):
    model = fresh(tokenizer).eval()
    words = perception.words_of(model, tokenizer)
    batch = collate([draw_row(Packer(tokenizer), IdealSource(words), np.random.default_rng(1), EASY)])
    with torch.no_grad():
        half, _ = binding.forward(model, batch, binding.FIRST_LAYERS)
        binding.grow(model)
        whole, _ = binding.forward(model, batch)
    torch.testing.assert_close(whole, half, atol=1e-4, rtol=1e-4)


def test_a_deeper_decoder_keeps_its_answers_and_finds_words_before_any_training(tokenizer):
    """The layers that `deepen` adds leave what was learned alone; a word in a question finds the tokens that say it."""
    trained, _ = load(EMBEDDED["tiny"])
    words = perception.words_of(fresh(tokenizer), tokenizer)
    packer, source = Packer(tokenizer), IdealSource(words)
    deeper = deepen(trained, tokenizer)
    assert len(deeper.model.language_model.layers) == 14
    clips = Curriculum(3, 8, full_share=0.0, thin_share=0.0, questions=14)
    known = collate([draw_row(packer, source, np.random.default_rng(seed), clips) for seed in range(2)])
    said = collate([draw_row(packer, source, np.random.default_rng(9), replace(clips, spoken_share=1.0))])
    with torch.no_grad():
        before, after = (
            binding.score(one, packer, known, binding.forward(one, known)[0]).values() for one in (trained, deeper)
        )
        _, states = binding.forward(deeper, said)
    right_before, right_after = (sum(entry[0] for entry in found) for found in (before, after))
    assert right_after >= right_before - 1 > 0
    voices = said.facts[facts.NUMBER["said by"], 0]
    places = [place for place in range(len(voices)) if voices[place] != IGNORED]
    assert places
    for place in places:
        looked_up = states[1][0, place] - states[0][0, place]
        assert perception.named(looked_up, words.voices).argmax() == voices[place]


def test_labels_of_samples_agree_with_what_is_painted():
    pictures = picture_batch(np.random.default_rng(3), 12)
    rows, columns = pictures.frames.shape[2] // 28, pictures.frames.shape[3] // 28
    cells = pictures.frames.float().amax((1, 4)).view(12, rows, 28, columns, 28).mean((2, 4)).flatten(1)
    shapes, colours = pictures.shapes[:, 0], pictures.colours[:, 0]
    named, empty = (shapes >= 0) & (shapes < len(SHAPES)), shapes == len(SHAPES)
    assert named.any()
    assert cells[named].mean() > cells[empty].mean() + 40
    assert (named == ((colours >= 0) & (colours < len(COLOURS)))).all()


def test_a_pages_cells_name_the_words_that_are_written_on_them_and_their_lines():
    pages = page_batch(np.random.default_rng(5), 12, shipped_faces())
    written = pages.shapes[:, 0] >= FIRST_WRITTEN
    assert written.any()
    assert (pages.places[:, 0][written] >= len(PLACES)).all()
    assert (pages.colours[:, 0][written] == IGNORED).all()
    rows, columns = pages.frames.shape[2] // 28, pages.frames.shape[3] // 28
    cells = pages.frames.float().mean(-1).view(12, 2, rows, 28, columns, 28)
    # Where a page is turned between the two frames, one of them shows the word.
    contrast = (cells.amax((3, 5)) - cells.amin((3, 5))).amax(1).flatten(1)
    empty = (pages.shapes == len(SHAPES)).all(1)
    assert contrast[written].min() > 60
    # Letters reach below their line: a few empty cells are not even.
    assert contrast[empty].quantile(0.75) < 30


def test_a_tables_cells_name_their_words_lines_and_columns_and_rules_are_drawn():
    """Of the same draws, ruled and not: labels are the same, and only rules differ."""
    faces = shipped_faces()
    tables = {rules: table_batch(np.random.default_rng(2), 6, faces, rules, 2) for rules in ("none", "lines")}
    plain, ruled = tables["none"], tables["lines"]
    written = plain.shapes[:, 0] >= FIRST_WRITTEN
    assert written.any(1).all()
    assert torch.equal(plain.columns != IGNORED, written)
    cells = torch.arange(written.shape[1]) % (plain.frames.shape[3] // CELL)
    for number in range(6):
        left, right = (cells[plain.columns[number] == column].float().mean() for column in (0, 1))
        assert left < right
    for name in ("shapes", "places", "columns"):
        assert torch.equal(getattr(plain, name), getattr(ruled, name)), name
    assert not torch.equal(plain.frames, ruled.frames)
    single = table_batch(np.random.default_rng(2), 6, faces, "none", 1)
    assert (single.columns == IGNORED).all()


def test_a_busy_pictures_cells_name_the_shapes_of_their_places():
    pictures = busy_picture_batch(np.random.default_rng(4), 8)
    columns = pictures.frames.shape[3] // 28
    left, right = ((pictures.places[:, 0] == PLACES.index(place)).nonzero()[:, 1] % columns for place in PLACES[:2])
    assert left.numel()
    assert right.numel()
    assert left.max() < right.min()
    placed = pictures.places >= 0
    assert (placed == ((pictures.shapes >= 0) & (pictures.shapes < len(SHAPES)))).all()


def test_tokens_know_what_came_before_and_how_much_there_was():
    events = (Event(0, 2, "circle", "red", "noise"), Event(2, 4, None, None, "clicks"), Event(5, 8, "square", "blue"))
    times, kind = np.array([1.0, 3.0, 4.5, 6.0]), np.array([2, 2, 2, 1])
    labels = facts.facts_of(events, False, kind, times, np.full((3, 4), IGNORED))
    known = {name: labels[number].tolist() for name, number in facts.NUMBER.items()}
    nothing, square = len(SHAPES), SHAPES.index("square")
    assert known["shape"] == [SHAPES.index("circle"), nothing, nothing, square]
    assert known["shape before"] == [nothing, IGNORED, IGNORED, SHAPES.index("circle")]
    assert known["shapes so far"] == [1, 1, 1, 2]
    # A picture stands before the sound of its chunk and cannot know it.
    assert known["sound before"] == [len(SOUNDS), SOUNDS.index("noise"), IGNORED, IGNORED]
    assert known["sounds so far"] == [1, 2, 2, IGNORED]


def test_a_word_that_is_asked_about_knows_all_that_is_true_of_it():
    low, high = (Event(at, at + 0.6, word="river", voice=voice) for at, voice in enumerate(("low", "high")))
    page = Event(3, 5, lines=("zebra", "river"))
    known = {"is said": 1, "times said": 2, "written in": 2}
    assert facts.facts_of_word("river", (low, high, page)) == known
    assert facts.facts_of_word("river", (low, page)) == {**known, "times said": 1, "said by": VOICES.index("low")}
    assert facts.facts_of_word("book", (low, page)) == {"is said": 0, "times said": 0, "written in": 0}


def test_questions_of_the_whole_clip_count_more_than_those_that_a_word_keys(tokenizer, model):
    """First, last and how many are three of the dozens of questions about a clip of world v3."""
    stage = Curriculum(3, 12, full_share=0.0, thin_share=1.0, questions=40, spoken_share=1.0, counted_weight=3.0)
    source = IdealSource(perception.words_of(model, tokenizer))
    row = draw_row(Packer(tokenizer), source, np.random.default_rng(4), stage)
    weight = {one.question.text: row.weights[place] for place, one in row.asked}
    whole = {"Which word is said first?", "Which word is said last?", "How many words are said?"}
    assert {text for text, given in weight.items() if given > 1} == whole
    assert set(weight.values()) == {np.float32(1), np.float32(WHOLE_WEIGHT)}


@pytest.mark.parametrize("world", ["v1", "v2"])
def test_packed_layers_equal_the_stock_ones(tokenizer, model, world):
    stage = Curriculum(2, 8, full_share=0.0, thin_share=1.0, questions=6, busy_share=float(world == "v2"))
    source = IdealSource(perception.words_of(model, tokenizer))
    batch = collate([draw_row(Packer(tokenizer), source, np.random.default_rng(seed), stage) for seed in range(3)])
    decoder = model.model.language_model
    with torch.no_grad():
        final, after = binding.forward(model, batch)
        rotary = decoder.rotary_emb(after[0], batch.positions)
        hidden = after[0]
        for layer in decoder.layers:
            hidden = layer(hidden, attention_mask=batch.mask, position_embeddings=rotary)
    read = batch.targets != IGNORED
    torch.testing.assert_close(final[read], decoder.norm(hidden)[read], atol=1e-4, rtol=1e-4)


def test_frozen_layers_stay_and_a_killed_run_goes_on(tokenizer, tmp_path):
    """Three steps, then three more from the state on disk, are the six steps of a run that nothing stopped. A later
    stage goes on with the maps of facts that an earlier one learned."""
    words = perception.words_of(fresh(tokenizer), tokenizer)

    def trained(name: str, *until: int, rate: float = 1e-3, known: Path | None = None) -> dict[str, torch.Tensor]:
        for steps in until:
            torch.manual_seed(0)
            model = fresh(tokenizer)
            binding.train(
                model,
                Packer(tokenizer),
                IdealSource(words),
                words,
                steps=steps,
                rows=2,
                rate=rate,
                seed=1,
                checkpoint=tmp_path / name,
                device=torch.device("cpu"),
                phases=(binding.Phase(1.0, EASY),),
                workers=0,
                decay=0.0,
                frozen=5,
                known=known,
            )
        return model.model.language_model.state_dict()

    whole, stopped, untrained = trained("a", 6), trained("b", 3, 6), fresh(tokenizer).model.language_model.state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(stopped[name], weight)
        early = name.startswith(("embed_tokens", *(f"layers.{number}." for number in range(5))))
        assert torch.equal(weight, untrained[name]) == early, name

    trained("c", 1, rate=0.0, known=tmp_path / "a")
    learned, taken_over = (torch.load(tmp_path / name, weights_only=True)["knowing"] for name in ("a", "c"))
    assert learned
    for name, weight in learned.items():
        assert torch.equal(taken_over[name], weight), name


def test_stages_are_found_by_name_and_fit_a_time():
    chosen = stages.named(["vision", "audio"])
    assert [stage.name for stage in chosen] == ["audio", "vision"]
    assert [stage.name for stage in stages.named(["tables"], stages.CURRICULA["v3"])] == ["tables"]
    assert "tables" not in [stage.name for stage in stages.shipped("v3")]
    fitted = stages.fitted(chosen, 1000.0, {"audio": 1.0, "vision": 2.0})
    assert sum(stage.steps * cost for stage, cost in zip(fitted, (1.0, 2.0), strict=True)) == pytest.approx(
        1000, rel=0.01
    )
    with pytest.raises(ValueError, match="there is no stage listening"):
        stages.named(["listening"])


@pytest.mark.parametrize("name", stored.SLICES)
def test_the_shipped_checkpoints_give_their_stored_answers(name):
    kept = json.loads((Path(__file__).parents[1] / "data" / f"{name}_answers.json").read_text())
    model = OmniModel.load(name, device="cpu", dtype="float32")
    agree, right = [], []
    for clip in kept["clips"]:
        found = stored.answers_of(model, stored.SLICES[name][0], clip["seed"], clip["events"])
        assert [one.question.text for one, _ in found] == list(clip["answers"])
        agree += [said == clip["answers"][one.question.text] for one, said in found]
        right += [said == one.right for one, said in found]
    assert len(agree) >= 24
    assert np.mean(agree) >= 0.97
    assert np.mean(right) >= kept["accuracy"] - 0.03
