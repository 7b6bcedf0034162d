"""The shape of a mixture-of-experts model: what its kernels multiply, read and write."""

from __future__ import annotations

from dataclasses import dataclass

from sbs_opt.models.errors import InputError

Shape = tuple[int, int]
"""(k, n) of a GEMM: values in, values out."""


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, 2024): keys and values are projected from one latent per token.

    Prefill projects them (not absorbed), decode folds the projection into the query and the output (absorbed).
    """

    heads: int
    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values once they are projected."""
        return self.heads

    @property
    def query_dim(self) -> int:
        """Width of a query or key head."""
        return self.nope_dim + self.rope_dim

    def projections(self, hidden: int) -> tuple[Shape, ...]:
        """Return the GEMMs that run once per new token: q_a with kv_a, q_b, output."""
        return (
            (hidden, self.query_rank + self.kv_rank + self.rope_dim),
            (self.query_rank, self.heads * self.query_dim),
            (self.heads * self.value_dim, hidden),
        )

    @property
    def context_projections(self) -> tuple[Shape, ...]:
        """kv_b: once per new token, and again for each prefix token of a chunk in prefill."""
        return ((self.kv_rank, self.heads * (self.nope_dim + self.value_dim)),)

    @property
    def absorbed_projections(self) -> tuple[Shape, ...]:
        """kv_b in decode: applied to the query and to the output, one head at a time; together the same weights."""
        return (self.kv_rank, self.heads * self.nope_dim), (self.kv_rank, self.heads * self.value_dim)

    @property
    def pair_flops(self) -> float:
        """FLOP per (query, key) pair and layer in prefill."""
        return 2.0 * self.heads * (self.query_dim + self.value_dim)

    @property
    def decode_flops(self) -> float:
        """FLOP per query, KV token and layer in decode: scores over rank + rope, output over rank."""
        return 2.0 * self.heads * (2 * self.kv_rank + self.rope_dim)

    @property
    def new_bytes(self) -> float:
        """BF16 bytes of query and output of a token."""
        return 2.0 * self.heads * (self.query_dim + self.value_dim)

    @property
    def context_bytes(self) -> float:
        """BF16 bytes of key and value of a token, projected."""
        return self.new_bytes

    @property
    def kv_bytes(self) -> int:
        """BF16 bytes of a token in the KV cache, per layer."""
        return 2 * (self.kv_rank + self.rope_dim)

    @property
    def elementwise_bytes(self) -> tuple[float, float]:
        """HBM bytes per layer that elementwise kernels move, per new token and per context token; counted.

        New: rotation of the query (read, write) and quantisation of the output. Context: the key is assembled from
        its part without position (read) and the rotated one (write all).
        """
        new = self.heads * (4.0 * self.query_dim + 3.0 * self.value_dim)
        return new, 2.0 * self.heads * (self.nope_dim + self.query_dim)


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Grouped-query attention (Ainslie et al., 2023): several query heads share one head of keys and values."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def query_dim(self) -> int:
        """Width of a query or key head."""
        return self.head_dim

    @property
    def value_dim(self) -> int:
        """Width of a value head."""
        return self.head_dim

    def projections(self, hidden: int) -> tuple[Shape, ...]:
        """Return the GEMMs that run once per new token: query with key and value, output."""
        return (
            (hidden, (self.heads + 2 * self.kv_heads) * self.head_dim),
            (self.heads * self.head_dim, hidden),
        )

    @property
    def context_projections(self) -> tuple[Shape, ...]:
        """None: the cache holds keys and values as attention reads them."""
        return ()

    @property
    def absorbed_projections(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    @property
    def pair_flops(self) -> float:
        """FLOP per (query, key) pair and layer."""
        return 4.0 * self.heads * self.head_dim

    @property
    def decode_flops(self) -> float:
        """FLOP per query, KV token and layer in decode."""
        return self.pair_flops

    @property
    def new_bytes(self) -> float:
        """BF16 bytes of query and output of a token."""
        return 4.0 * self.heads * self.head_dim

    @property
    def context_bytes(self) -> float:
        """BF16 bytes of key and value of a token."""
        return 4.0 * self.kv_heads * self.head_dim

    @property
    def kv_bytes(self) -> int:
        """BF16 bytes of a token in the KV cache, per layer."""
        return 4 * self.kv_heads * self.head_dim

    @property
    def elementwise_bytes(self) -> tuple[float, float]:
        """HBM bytes per layer that elementwise kernels move, per new token and per context token; counted.

        New: norm and rotation of query and key (read, write), quantisation of the output.
        """
        return self.head_dim * (4.0 * (self.heads + self.kv_heads) + 3.0 * self.heads), 0.0


Attention = LatentAttention | GroupedAttention


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Shape of a mixture-of-experts model; widths in values, FP8 weights."""

    layers: int
    dense_layers: int
    hidden: int
    vocabulary: int
    dense_width: int
    expert_width: int
    routed_experts: int
    shared_experts: int
    top_experts: int
    expert_groups: int
    top_groups: int
    dispatch_bytes: int
    dispatch_bytes_low_latency: int
    combine_bytes: int
    attention: Attention

    def __post_init__(self) -> None:
        """Refuse shapes that contradict themselves."""
        reachable = self.routed_experts * self.top_groups // self.expert_groups
        for name, value, most, of in (
            ("dense_layers", self.dense_layers, self.layers, "layers"),
            ("top_groups", self.top_groups, self.expert_groups, "expert_groups"),
            ("top_experts", self.top_experts, reachable, "the experts of the groups that a token may reach"),
        ):
            if value > most:
                raise InputError(f"{name} = {value}: more than {of}, {most}; check the model's configuration")

    @property
    def moe_layers(self) -> int:
        """Layers with routed experts."""
        return self.layers - self.dense_layers

    def feed_forward(self, width: int) -> tuple[Shape, ...]:
        """Return the GEMMs of a feed-forward block of this width, gate+up and down; none where there is no width."""
        return ((self.hidden, 2 * width), (width, self.hidden)) if width else ()

    @property
    def shared_width(self) -> int:
        """Width of the shared experts together."""
        return self.expert_width * self.shared_experts

    @property
    def elementwise_bytes(self) -> tuple[float, float]:
        """HBM bytes per layer that elementwise kernels move, per new token and per context token; counted.

        New, besides attention's own: two residual-and-norm passes (4 BF16 vectors each), two quantisations to FP8
        (3 B a value), activation of the shared expert.
        """
        new, context = self.attention.elementwise_bytes
        return new + (16.0 + 6.0) * self.hidden + 5.0 * self.shared_width, context

    @property
    def expert_row_bytes(self) -> float:
        """HBM bytes that elementwise kernels move per row of a routed expert; counted.

        Sorting received tokens by expert (FP8, read and write), activation and quantisation (BF16 gate and up in,
        FP8 out), summing the outputs of a token (BF16, read and write).
        """
        return 2.0 * self.hidden + 5.0 * self.expert_width + 4.0 * self.hidden
