"""Small modules as users write them, each around one or more recurrent layers. Data for `recurrent_cases`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch.nn.utils.rnn as rnn_utils
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

PADDING_VALUE = -1.5


class Recurrent(nn.Module):
    """Optional dense layer, one recurrent stack run in one of seven ways, linear head.

    `mode` is plain, packed, packed-sorted, packed-total-length, packed-padding-value, padded-mask or padded-last.
    Returns y, and the final states where initial ones are given.
    """

    def __init__(self, rnn: nn.RNNBase, mode: str, dense: bool) -> None:
        super().__init__()
        self.mode = mode
        self.dense = nn.Linear(rnn.input_size, rnn.input_size) if dense else None
        self.rnn = rnn
        width = (rnn.proj_size or rnn.hidden_size) * (2 if rnn.bidirectional else 1)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor, lengths: Tensor | None = None, h0: Tensor | None = None, c0: Tensor | None = None):
        if self.dense is not None:
            x = torch.tanh(self.dense(x))
        state = (h0, c0) if c0 is not None else h0
        y, state = self._packed(x, lengths, state) if self.mode.startswith("packed") else self.rnn(x, state)
        if self.mode == "padded-mask":
            y = y * self._valid(y, lengths)
        if self.mode == "padded-last":
            y = self._last_valid(y, lengths)
        y = self.head(y)
        if h0 is None:
            return y
        return (y, *state) if c0 is not None else (y, state)

    def _packed(self, x: Tensor, lengths: Tensor, state):
        batch_first = self.rnn.batch_first
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=self.mode == "packed-sorted")
        packed, state = self.rnn(packed, state)
        total_length = x.size(1 if batch_first else 0) if self.mode == "packed-total-length" else None
        fill = PADDING_VALUE if self.mode == "packed-padding-value" else 0.0
        y, _ = pad_packed_sequence(packed, batch_first, padding_value=fill, total_length=total_length)
        return y, state

    def _valid(self, y: Tensor, lengths: Tensor) -> Tensor:
        time = torch.arange(y.size(1 if self.rnn.batch_first else 0), device=y.device)
        valid = time < lengths.unsqueeze(1)  # (B, T)
        return (valid if self.rnn.batch_first else valid.t()).unsqueeze(-1)

    def _last_valid(self, y: Tensor, lengths: Tensor) -> Tensor:
        axis = 1 if self.rnn.batch_first else 0
        index = (lengths - 1).view(-1, 1, 1) if self.rnn.batch_first else (lengths - 1).view(1, -1, 1)
        return y.gather(axis, index.expand(-1, -1, y.size(-1))).squeeze(axis)  # (B, C)


class CellStep(nn.Module):
    """One call of a cell a forward; the caller keeps the state."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(cell.hidden_size, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None):
        if c is None:
            h = self.cell(x, h)
            return self.head(h), h
        h, c = self.cell(x, (h, c))
        return self.head(h), h, c


class TwoCells(nn.Module):
    """An LSTMCell feeding a GRUCell, both stepped once."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.LSTMCell(6, 8)
        self.upper = nn.GRUCell(8, 5)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor):
        h, c = self.lower(x, (h, c))
        g = self.upper(h, g)
        return torch.relu(g), h, c, g


class Tagger(nn.Module):
    """Embedding, convolution, packed 2-layer BiLSTM, masked self-attention, per-token classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.key = nn.Linear(12, 12)
        self.tags = nn.Linear(24, 5)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        x = self.embed(tokens)  # (B, T, 8)
        x = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        packed = rnn_utils.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = rnn_utils.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # (B, max(lengths), 12)
        scores = self.key(y) @ y.transpose(1, 2) / 12**0.5
        padding = torch.arange(y.size(1)) >= lengths.unsqueeze(1)  # (B, max(lengths))
        attention = scores.masked_fill(padding.unsqueeze(1), float("-inf")).softmax(-1)
        return self.tags(torch.cat([y, attention @ y], dim=-1)).log_softmax(-1)


class Crnn(nn.Module):
    """Text-line recogniser: convolutions over a (B, 1, 8, T) image, BiLSTM over its columns, CTC log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.lstm = nn.LSTM(6 * 2, 8, bidirectional=True)
        self.classes = nn.Linear(16, 11)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(image))), (2, 1))
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 1))  # (B, 6, 2, T)
        x = x.flatten(1, 2).permute(2, 0, 1)  # (T, B, 12)
        return self.classes(self.lstm(x)[0]).log_softmax(-1)


class FlipBetween(nn.Module):
    """A GRU forwards, then an LSTM over the reversed sequence, reversed back."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)
        self.lstm = nn.LSTM(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        y, _ = self.lstm(y.flip(0))
        return y.flip(0)


class EncoderDecoder(nn.Module):
    """A GRU over `source` (S, B, 6), whose final state starts an LSTM or GRU over `target` (T, B, 6)."""

    def __init__(self, decoder: type[nn.LSTM] | type[nn.GRU], packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        self.encoder = nn.GRU(6, 8)
        self.decoder = decoder(6, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.packed:
            source = pack_padded_sequence(source, lengths, enforce_sorted=False)
        _, h = self.encoder(source)
        state = (h, torch.zeros_like(h)) if isinstance(self.decoder, nn.LSTM) else h
        return self.head(self.decoder(target, state)[0])


class TiedLanguageModel(nn.Module):
    """Embedding and output layer share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, 2)
        self.out = nn.Linear(8, 20)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor):
        y, (h, c) = self.lstm(self.embed(tokens), (h, c))
        return self.out(y), h, c


class Siamese(nn.Module):
    """One GRU called on two sequences of different length."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, batch_first=True)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(self.gru(left)[1][-1], self.gru(right)[1][-1])


class ResidualStack(nn.Module):
    """LSTMs of one width in a ModuleList, each added to its input and layer-normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(6, 6, batch_first=True) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for lstm, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + lstm(x)[0])
        return x


class PairFrames(nn.Module):
    """Shape arithmetic: two frames become one, so T must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        return self.gru(x.view(B, T // 2, 2 * C))[0]  # (B, T/2, 8)


class StridedConv(nn.Module):
    """A convolution that halves time, rounding up, before the LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, stride=2, padding=1)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]  # (B, (T+1)//2, 8)


class StridedConvPacked(nn.Module):
    """As `StridedConv`, with the lengths halved alike and the sequence packed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, stride=2, padding=1)
        self.gru = nn.GRU(8, 8, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor):
        x = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        shorter = torch.div(lengths + 1, 2, rounding_mode="floor")
        packed = pack_padded_sequence(x, shorter.to("cpu"), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)  # y (B, max, 16), lengths (B,)


class ScaledLstm(nn.LSTM):
    """A user's subclass that changes the input and the output around the inherited forward."""

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = super().forward(x * 0.5)
        return y + h[-1]


class FinalState(nn.Module):
    """Uses h_n and not y: the last layer's, or all layers and directions side by side."""

    def __init__(self, rnn: nn.RNNBase, every_layer: bool, packed: bool = False) -> None:
        super().__init__()
        self.rnn = rnn
        self.every_layer = every_layer
        self.packed = packed

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        _, state = self.rnn(x)
        h = state[0] if isinstance(self.rnn, nn.LSTM) else state  # (layers * directions, B, H)
        if self.every_layer:
            return h.transpose(0, 1).reshape(h.size(1), -1)
        return h[-1]


class PackedTwice(nn.Module):
    """Packs once, drops out on the packed data, runs two recurrent layers, pads once."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.GRU(6, 8, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.upper = nn.LSTM(16, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed: PackedSequence = pack_padded_sequence(x, lengths.to(torch.int64).to("cpu"), enforce_sorted=False)
        packed, _ = self.lower(packed)
        packed = packed._replace(data=self.dropout(packed.data))
        packed, _ = self.upper(packed)
        return pad_packed_sequence(packed)[0]


class MeanPool(nn.Module):
    """Packed GRU, mean over the valid steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.to("cpu"), batch_first=True, enforce_sorted=False)
        y, counts = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return y.sum(1) / counts.unsqueeze(1).to(y.dtype)


class ZeroState(nn.Module):
    """Makes its own zero initial state from the batch size, as many tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), 8)
        return self.lstm(x, (h0, torch.zeros_like(h0)))[0][:, -1]


class LearnedState(nn.Module):
    """The initial state is a parameter, expanded over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)
        self.h0 = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x, self.h0.expand(-1, x.size(1), -1).contiguous())[0]


def weight_normed_gru() -> nn.GRU:
    gru = nn.GRU(6, 8)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        nn.utils.parametrizations.weight_norm(gru, name)
    with torch.no_grad():  # differs from the norm that the plain weight would have
        gru.parametrizations.weight_hh_l0.original0.mul_(1.5)
    return gru
