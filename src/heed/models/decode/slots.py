"""The keys and values of sequences that are being decoded, laid so that a step reads little more than it needs.

For a small model, a step of many sequences is as slow as memory gives out their keys and values. So sequences of like
length lie together in bands, each as wide as its own longest sequence needs, and the bands of a layer lie one behind
the other without a gap: products of slices of wider slots, which lie apart, were measured to take four times as long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

MOST_SLOTS, FEWEST_SLOTS = 16, 4
"""of a band on a CPU; a GPU, on which the number of calls decides, has one band"""
BAND_ENTRIES = 4096
"""entries that a column adds to a layer's keys in a band: beyond, memory decides, not the number of calls"""

SPARE_COLUMNS = 16
"""tokens that every sequence of a band has room for after bands were laid anew"""

KeyValue = tuple[Tensor, Tensor]
"""a layer's keys and values, of equal shape but for the head size"""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that were computed together, every distinct prefix once."""

    kept: list[KeyValue]
    """of each layer, (key heads, T, head size)"""
    paths: list[Tensor]
    """for each prompt, where its tokens lie among the T, root first"""
    states: Tensor
    """(prompts, width) the final hidden state of each prompt's last token"""
    num_tokens: int
    """T, the tokens that were computed"""


@dataclass(frozen=True, slots=True)
class Band:
    """Slots of one width."""

    slots: slice
    width: int
    """columns of each slot, one for each token behind the trunk"""
    begins: int
    """columns of all bands before this one"""

    @property
    def num_slots(self) -> int:
        """How many there are."""
        return int(self.slots.stop - self.slots.start)

    def of(self, buffer: Tensor) -> Tensor:
        """The band's part of a layer's keys or values: (slots, key heads, width, head size)."""
        _, heads, size = buffer.shape
        shape = (self.num_slots, heads, self.width, size)
        strides = (self.width * heads * size, self.width * size, size, 1)
        return buffer.as_strided(shape, strides, self.begins * heads * size)


@dataclass(eq=False)
class Decoding:
    """Sequences that are being decoded. The active ones are in the first slots."""

    trunk: list[KeyValue]
    """of each layer, (key heads, tokens in front of every sequence, head size)"""
    own: list[KeyValue]
    """of each layer, what comes behind the trunk: (columns of all bands, key heads, head size), read by `Band.of`"""
    lengths: list[int]
    """tokens that each slot's sequence has in trunk and slot; the trunk's alone in free slots"""
    bands: list[Band]
    device: torch.device
    num_active: int = 0
    # Of the step in progress:
    num_attention_calls: int = 0
    active: list[tuple[Band, slice]] = field(default_factory=list)
    """the bands with active slots, and which those are"""
    position: Tensor = field(init=False)
    """(active sequences,) of the token that is added"""
    new_entries: dict[int, Tensor] = field(default_factory=dict)
    """by number of key heads, where in the buffer, as rows of one head, the added token's keys belong"""
    additive_masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)
    """by first slot of a band and sliding window"""

    @classmethod
    def like(cls, prompts: Prompts, *, num_slots: int, trunk: int) -> "Decoding":
        """Free slots for sequences that begin, all of them, with the first `trunk` tokens of any of the prompts."""
        device = prompts.states.device
        widest = max(key.shape[0] * key.shape[2] for key, _ in prompts.kept)
        size = max(FEWEST_SLOTS, min(MOST_SLOTS, BAND_ENTRIES // widest)) if device.type == "cpu" else num_slots
        return cls(
            # Prompts with a common beginning are one tree, and what they have in common is the beginning of the buffer.
            trunk=[(key[:, :trunk].contiguous(), value[:, :trunk].contiguous()) for key, value in prompts.kept],
            own=[(k.new_empty(0, len(k), k.shape[2]), v.new_empty(0, len(v), v.shape[2])) for k, v in prompts.kept],
            lengths=[trunk] * num_slots,
            bands=[Band(slice(at, min(at + size, num_slots)), 0, 0) for at in range(0, num_slots, size)],
            device=device,
        )

    @property
    def trunk_length(self) -> int:
        """Tokens in front of every sequence."""
        return self.trunk[0][0].shape[1]

    def admit(self, prompts: Prompts, which: Sequence[int]) -> None:
        """Put these of the prompts into the next free slots; a prompt may be named several times."""
        first = self.num_active
        self.num_active += len(which)
        for slot, index in enumerate(which, start=first):
            self.lengths[slot] = len(prompts.paths[index])
        self.fit()
        for band, slots in self.bands_of(first, self.num_active):
            paths = [prompts.paths[which[slot - first]][self.trunk_length :] for slot in range(slots.start, slots.stop)]
            padded = nn.utils.rnn.pad_sequence(paths, batch_first=True)
            inside = slice(slots.start - band.slots.start, slots.stop - band.slots.start)
            for of_layer, buffers in zip(prompts.kept, self.own, strict=True):
                for x, buffer in zip(of_layer, buffers, strict=True):
                    own = x.index_select(1, padded.flatten()).unflatten(1, padded.shape)
                    band.of(buffer)[inside, :, : padded.shape[1]] = own.transpose(0, 1)

    def dismiss(self, slot: int) -> None:
        """Free a slot by moving the last active sequence into it."""
        last = self.num_active - 1
        if slot != last:
            self.lengths[slot] = self.lengths[last]
            self.fit()  # its new band may be narrower
            (there, _), (here, _) = next(self.bands_of(slot, slot + 1)), next(self.bands_of(last, last + 1))
            held = self.lengths[last] - self.trunk_length
            for buffers in self.own:
                for buffer in buffers:
                    moved = here.of(buffer)[last - here.slots.start, :, :held]
                    there.of(buffer)[slot - there.slots.start, :, :held] = moved
        self.lengths[last] = self.trunk_length
        self.num_active = last

    def bands_of(self, first: int, stop: int) -> Iterator[tuple[Band, slice]]:
        """The bands that hold slots from `first` to before `stop`, each with those of the slots that it holds."""
        for band in self.bands:
            slots = slice(max(first, band.slots.start), min(stop, band.slots.stop))
            if slots.start < slots.stop:
                yield band, slots

    def fit(self) -> None:
        """Lay the bands anew if one has no room for a token more of its longest sequence, or far too much."""
        needed = [max(self.lengths[band.slots]) + 1 - self.trunk_length for band in self.bands]
        if all(n <= band.width <= n + 2 * SPARE_COLUMNS for n, band in zip(needed, self.bands, strict=True)):
            return
        before, self.bands, begins = self.bands, [], 0
        for band, columns in zip(before, needed, strict=True):
            width = columns - 1 + SPARE_COLUMNS
            self.bands.append(Band(band.slots, width, begins))
            begins += band.num_slots * width
        for layer, (keys, values) in enumerate(self.own):  # one at a time, or two whole caches would be in memory
            self.own[layer] = (self._laid(keys, before), self._laid(values, before))

    def _laid(self, buffer: Tensor, before: Sequence[Band]) -> Tensor:
        """A layer's keys or values in the bands as they are now."""
        last = self.bands[-1]
        laid = buffer.new_empty(last.begins + last.num_slots * last.width, *buffer.shape[1:])
        for old, new in zip(before, self.bands, strict=True):
            there, stays = new.of(laid), min(old.width, new.width)
            there[:, :, :stays] = old.of(buffer)[:, :, :stays]
            there[:, :, stays:] = 0  # columns that are masked still take part in products, where NaNs would spread
        return laid

    def begin_step(self) -> Tensor:
        """Get ready for a token more of every active sequence; returns their positions."""
        self.fit()
        self.num_attention_calls = 0
        self.active = list(self.bands_of(0, self.num_active))
        self.new_entries.clear()
        self.additive_masks.clear()
        self.position = torch.tensor(self.lengths[: self.num_active], device=self.device)
        return self.position

    def end_step(self) -> None:
        """Every layer has seen the token."""
        for slot in range(self.num_active):
            self.lengths[slot] += 1

    def append(self, key: Tensor, value: Tensor) -> tuple[KeyValue, list[tuple[Band, slice, Tensor, Tensor]]]:
        """Put the next layer's new keys and values (sequences, key heads, head size) behind the old ones.

        Returns the layer's trunk, and of each band the active slots with their keys and values, (sequences, key heads,
        width, head size).
        """
        layer = self.num_attention_calls
        self.num_attention_calls += 1
        entries = self._entries(key.shape[1])
        for buffer, new in zip(self.own[layer], (key, value), strict=True):
            buffer.view(-1, buffer.shape[2]).index_copy_(0, entries, new.flatten(0, 1))
        keys, values = self.own[layer]
        parts = []
        for band, slots in self.active:
            count = slots.stop - slots.start
            parts.append((band, slots, band.of(keys)[:count], band.of(values)[:count]))
        return self.trunk[layer], parts

    def _entries(self, key_heads: int) -> Tensor:
        """Where the new tokens' keys belong, (sequences * key heads,)."""
        if key_heads not in self.new_entries:
            head = np.arange(key_heads)
            found = []
            for band, slots in self.active:
                column = np.array(self.lengths[slots]) - self.trunk_length
                slot = np.arange(slots.stop - slots.start)
                first_head = (band.begins + slot * band.width) * key_heads + column
                found.append((first_head[:, None] + head * band.width).ravel())
            self.new_entries[key_heads] = torch.from_numpy(np.concatenate(found)).to(self.device)
        return self.new_entries[key_heads]

    def mask(self, band: Band, slots: slice, window: int | None, like: Tensor) -> Tensor:
        """0 where a band's sequence sees a position and -inf elsewhere: (sequences, 1, 1, trunk and width)."""
        key = band.slots.start, window
        if key not in self.additive_masks:
            column = torch.arange(self.trunk_length + band.width, device=like.device)
            distance = self.position[slots, None] - column
            hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
            self.additive_masks[key] = mask[:, None, None]
        return self.additive_masks[key]
