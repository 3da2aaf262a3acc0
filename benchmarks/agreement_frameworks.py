"""What other frameworks have of the losses of tutelage, each beside ours, and why where it is not the same.

Packages that cannot be imported beside a current torch are read file by file: the file of the loss alone, with
stand-ins for what it only registers itself with or inherits its training loop from.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agreement_pairs import OURS, Inputs, Pair, T, Value
from tutelage import losses


def _module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    made.__path__ = []  # a package, as far as an import can tell
    made.__dict__.update(members)
    return made


def _file(package: str, path: str, name: str, **stand_ins: ModuleType) -> ModuleType:
    """One file of an installed package, without the package around it."""
    place = Path(str(metadata.distribution(package).locate_file(path)))
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None or not place.is_file():
        raise ImportError(f"{package} has no {path}")
    names = {key.replace("__", "."): module for key, module in stand_ins.items()}
    before = {key: sys.modules.get(key) for key in names}
    sys.modules.update(names)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for key, kept in before.items():
            sys.modules.pop(key, None)
            if kept is not None:
                sys.modules[key] = kept
    return module


def _io(**outputs: Any) -> dict[str, dict[str, Any]]:
    """What torchdistill's losses read: outputs by the path of a module."""
    return {path: {"output": value} for path, value in outputs.items()}


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    return torch.special.entr((logits / temperature).softmax(-1)).sum(-1)


def pytorch() -> Iterator[Pair]:
    def weights(x: Inputs) -> Tensor:
        return torch.linspace(0.5, 2.0, x.student.shape[-1], dtype=torch.float64)

    def divergence(x: Inputs) -> Tensor:
        return F.kl_div((x.student / T).log_softmax(-1), (x.teacher / T).softmax(-1), reduction="mean")

    def weighted(x: Inputs) -> Tensor:
        return losses.cross_entropy(x.student, x.labels, class_weights=weights(x))

    smoothed: Value = lambda x: F.cross_entropy(x.student, x.labels, label_smoothing=0.1)  # noqa: E731
    yield Pair("cross_entropy, label_smoothing", "cross_entropy", smoothed)
    reason = "divides by the batch's sum of weights: ours · B / Σ w; here a gradient does not depend on its neighbours"
    yield Pair(
        "cross_entropy, weight", "cross_entropy", lambda x: F.cross_entropy(x.student, x.labels, weights(x)), reason,
        lambda v, x: v * len(x.labels) / weights(x)[x.labels].sum(), our=weighted,
    )  # fmt: skip
    reason = "`mean`, the default of torch, divides by the classes as well, and there is no T²: ours / (T² C)"
    yield Pair("kl_div", "soft_target", divergence, reason, lambda v, x: v / T**2 / x.student.shape[-1])
    binary: Value = lambda x: F.binary_cross_entropy_with_logits(x.student, x.teacher.sigmoid())  # noqa: E731
    reason = "the mean over labels, here their sum: ours / C"
    yield Pair("binary_cross_entropy_with_logits", "binary_cross_entropy", binary, reason, _per_class)
    for name in ("logit_mse", "regression_mse"):
        yield Pair("mse_loss, logits", name, lambda x: F.mse_loss(x.student, x.teacher))
    yield Pair("mse_loss, maps", "hint", lambda x: F.mse_loss(x.s_maps[1], x.t_maps[1]))
    normal: Value = lambda x: F.gaussian_nll_loss(x.s_maps[1], x.t_maps[1], _variance(x))  # noqa: E731
    yield Pair("gaussian_nll_loss", "variational", normal)


def _variance(x: Inputs) -> Tensor:
    return (x.log_variance.exp() + 1e-5).reshape(1, -1, 1, 1).expand_as(x.s_maps[1])


def torchdistill() -> Iterator[Pair]:
    m: Any = import_module("torchdistill.losses.mid_level")
    logits = ("a", "output", "a", "output")
    one = {who: {"path": "a", "io": "output"} for who in ("student", "teacher")} | {"weight": 1}

    def on(kind: str, loss: Any) -> Value:
        sides = {
            "logits": lambda x: (x.student, x.teacher),
            "maps": lambda x: (x.s_maps[1], x.t_maps[1]),
            "reviewed": lambda x: ((x.s_maps[1], None), x.t_maps[1]),
            "vectors": lambda x: (x.s_vectors, x.t_vectors),
            "directions": lambda x: (F.normalize(x.s_vectors), F.normalize(x.t_vectors)),
            "densities": lambda x: ((x.s_maps[1], _variance(x)), x.t_maps[1]),
        }[kind]

        def their(x: Inputs) -> Tensor:
            student, teacher = sides(x)
            value: Tensor = loss(_io(a=student), _io(a=teacher), x.labels)
            return value

        return their

    def half(name: str) -> Value:
        return lambda x: 0.5 * losses.cross_entropy(x.student, x.labels) + 0.5 * OURS[name](x)

    soft, bare = (m.KDLoss(*logits, temperature=T, alpha=alpha) for alpha in (0.5, 0.0))
    yield Pair("KDLoss, alpha 0.5", "soft_target", on("logits", soft), our=half("soft_target"))
    reason = "without a label term it leaves T² out: ours / T²"
    yield Pair("KDLoss, alpha 0", "soft_target", on("logits", bare), reason, lambda v, x: v / T**2)
    z = m.LogitStdKDLoss(*logits, temperature=T, alpha=0.5)
    yield Pair("LogitStdKDLoss, alpha 0.5", "standardized", on("logits", z), our=half("standardized"))
    yield Pair("DISTLoss", "dist", on("logits", m.DISTLoss(*logits, beta=2.0, gamma=0.5, tau=T)))
    code, paper = (m.ATLoss({"p": one}, mode=mode) for mode in ("code", "paper"))
    yield Pair("ATLoss, mode code", "attention_transfer", on("maps", code))
    by_norm: Value = lambda x: losses.attention_transfer(x.s_maps[1], x.t_maps[1], distance="norm")  # noqa: E731
    yield Pair("ATLoss, mode paper", "attention_transfer", on("maps", paper), our=by_norm)
    reason = "the mean over all B² pairs: ours / B; its guard of 1e−7 stands elsewhere"
    pkt = on("vectors", m.PKTLoss(*logits))
    yield Pair("PKTLoss", "probabilistic_transfer", pkt, reason, lambda v, x: v / len(x.labels))
    factor = m.FTLoss(p=1, paraphraser_path="a", translator_path="a")
    yield Pair("FTLoss, p 1", "factor_transfer", on("maps", factor))
    boundary = m.AltActTransferLoss({"p": one}, margin=1.0, reduction="mean")
    yield Pair("AltActTransferLoss", "activation_boundary", on("maps", boundary))
    distances, angles = (m.RKDLoss("a", "a", *weights, "mean") for weights in ((1.0, 0.0), (0.0, 1.0)))
    yield Pair("RKDLoss, distances", "relational_distance", on("vectors", distances))
    yield Pair("RKDLoss, angles", "relational_angle", on("vectors", angles))
    yield Pair("VIDLoss", "variational", on("densities", m.VIDLoss({"p": one})))
    yield Pair("HierarchicalContextLoss", "review", on("reviewed", m.HierarchicalContextLoss(*logits)))
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    congruence = on("directions", m.CCKDLoss("a", "a", kernel, "batchmean"))
    reason = "the length of the difference where the paper has its square: √ours / B"
    yield Pair("CCKDLoss", "correlation_congruence", congruence, reason, lambda v, x: v.sqrt() / len(x.labels))
    reason = "divides a row of G by the sum of its sizes, not by its length: the 1 that it passes to `normalize` is p"
    similar = on("vectors", m.SPKDLoss("a", "a", "batchmean"))
    yield Pair("SPKDLoss", "similarity_preserving", similar, reason, lambda v, x: _by_sums(x.s_vectors, x.t_vectors))
    ends = ("first", "second")
    fsp = m.FSPLoss({"p": {f"{who}_{end}": {"path": end, "io": "output"} for who in one for end in ends}})
    reason = "Σ of the lengths of the difference's columns where the paper has the mean of its squares"
    yield Pair(
        "FSPLoss", "flow",
        lambda x: fsp(*(_io(**dict(zip(ends, maps, strict=True))) for maps in (x.s_maps, x.t_maps))),
        reason, lambda v, x: (_grams(x.s_maps) - _grams(x.t_maps)).norm(dim=1).sum() / len(x.labels),
    )  # fmt: skip


def _by_sums(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = ((v @ v.T) / (v @ v.T).abs().sum(1, keepdim=True) for v in (student, teacher))
    return (s - t).square().mean()


def _grams(maps: Sequence[Tensor]) -> Tensor:
    first, second = (one.flatten(2) for one in maps)
    return first @ second.mT / first.shape[-1]


def mmrazor() -> Iterator[Pair]:
    registry = SimpleNamespace(register_module=lambda: lambda loss: loss)

    def get(file: str, name: str, **options: Any) -> Any:
        parts = {"mmrazor": _module("mmrazor"), "mmrazor__registry": _module("mmrazor.registry", MODELS=registry)}
        return getattr(_file("mmrazor", f"mmrazor/models/losses/{file}.py", f"mmrazor_{file}", **parts), name)(
            **options
        )

    def on_maps(loss: Any) -> Value:
        return lambda x: loss(x.s_maps[1], x.t_maps[1])

    kl, by_mean = (get("kl_divergence", "KLDivergence", tau=T, reduction=how) for how in ("batchmean", "mean"))
    yield Pair("KLDivergence", "soft_target", lambda x: kl(x.student, x.teacher))
    reason = "torch's `mean` divides by the classes as well: ours / C"
    yield Pair(
        "KLDivergence, reduction mean", "soft_target", lambda x: by_mean(x.student, x.teacher), reason, _per_class
    )
    dkd = get("decoupled_kd", "DKDLoss", tau=T, alpha=1.0, beta=8.0)
    yield Pair("DKDLoss", "decoupled", lambda x: dkd(x.student, x.teacher, x.labels))
    dist = get("dist_loss", "DISTLoss", inter_loss_weight=2.0, intra_loss_weight=0.5, tau=T)
    reason = "adds 1e−8 to the product of lengths, which counts where a class's column hardly varies"
    yield Pair("DISTLoss", "dist", lambda x: dist(x.student, x.teacher), reason)
    distance, angle = (
        get("relational_kd", f"{kind}WiseRKD", loss_weight=1.0, with_l2_norm=False) for kind in ("Distance", "Angle")
    )
    yield Pair("DistanceWiseRKD", "relational_distance", lambda x: distance(x.s_vectors, x.t_vectors))
    yield Pair("AngleWiseRKD", "relational_angle", lambda x: angle(x.s_vectors, x.t_vectors))

    def wsld(x: Inputs) -> Any:
        return get("weighted_soft_label_distillation", "WSLD", tau=T, num_classes=x.student.shape[-1])

    reason = "a cross-entropy in the place of the divergence: ours + T² · mean of w H(p); the gradient is the same"
    yield Pair("WSLD", "weighted_soft_target", lambda x: wsld(x)(x.student, x.teacher, x.labels), reason, _weighted)

    boundary = on_maps(get("ab_loss", "ABLoss"))
    reason = "a weight inside: ours · 3 / 1,000"
    yield Pair("ABLoss", "activation_boundary", boundary, reason, lambda v, x: v * 3 / 1000)
    overhaul = get("ofd_loss", "OFDLoss")
    reason = "a weight inside, ours / 1,000; the teacher's margin is a part of its connector"
    yield Pair(
        "OFDLoss", "overhaul", lambda x: overhaul(x.s_maps[1], x.t_maps[1].clamp(min=-0.5)), reason,
        lambda v, x: v / 1000,
    )  # fmt: skip
    yield Pair("ATLoss", "attention_transfer", on_maps(get("at_loss", "ATLoss")))
    yield Pair("FTLoss", "factor_transfer", on_maps(get("factor_transfer_loss", "FTLoss")))


def _per_class(value: Tensor, x: Inputs) -> Tensor:
    return value / x.student.shape[-1]


def _weighted(value: Tensor, x: Inputs) -> Tensor:
    s, t = (F.cross_entropy(z, x.labels, reduction="none").detach() for z in (x.student, x.teacher))
    return value + T**2 * ((1 - torch.exp(-s / (t + 1e-7))) * _entropy(x.teacher, T)).mean()


def textbrewer() -> Iterator[Pair]:
    dtype = _module("textbrewer.compatibility", mask_dtype=torch.bool)
    parts = {"textbrewer": _module("textbrewer"), "textbrewer__compatibility": dtype}
    m = _file("textbrewer", "textbrewer/losses.py", "textbrewer.losses", **parts)

    def clipped(scores: Tensor) -> Tensor:
        return torch.where(scores <= -1e-3, 0.0, scores)

    reason = "a cross-entropy without T²: ours / T² + mean of H(p)"
    yield Pair(
        "kd_ce_loss", "soft_target", lambda x: m.kd_ce_loss(x.student, x.teacher, T), reason,
        lambda v, x: v / T**2 + _entropy(x.teacher, T).mean(),
    )  # fmt: skip
    reason = "divides logits by T: ours / T²"
    yield Pair("kd_mse_loss", "logit_mse", lambda x: m.kd_mse_loss(x.student, x.teacher, T), reason, _without_t2)
    reason = "takes scores ≤ −0.001 for masked ones, which count as 0; ours those ≤ −100"
    yield Pair(
        "att_mse_loss", "attention_mse", lambda x: m.att_mse_loss(x.s_scores, x.t_scores), reason,
        lambda v, x: losses.attention_mse([clipped(x.s_scores)], [clipped(x.t_scores)]),
    )  # fmt: skip
    reason = "a cross-entropy: ours + mean of H(t); scores ≤ −0.001 would be left out, so here all are raised above 0"
    raised: Value = lambda x: x.t_scores - x.t_scores.min()  # noqa: E731
    yield Pair(
        "att_ce_loss", "attention_kl", lambda x: m.att_ce_loss(x.s_scores, raised(x)), reason,
        lambda v, x: v + _entropy(x.t_scores, 1.0).mean(),
    )  # fmt: skip
    yield Pair("hid_mse_loss", "hidden_mse", lambda x: m.hid_mse_loss(x.s_tokens, x.t_tokens))
    yield Pair("cos_loss", "cosine_hidden", lambda x: m.cos_loss(x.s_tokens, x.t_tokens))
    yield Pair("pkd_loss", "patient", lambda x: m.pkd_loss(x.s_tokens, x.t_tokens))
    two: Callable[[Tensor], list[Tensor]] = lambda tokens: [tokens, tokens.square()]  # noqa: E731
    yield Pair(
        "fsp_loss", "flow", lambda x: m.fsp_loss(two(x.s_tokens), two(x.t_tokens)),
        our=lambda x: losses.flow(two(x.s_tokens), two(x.t_tokens)),
    )  # fmt: skip


def _without_t2(value: Tensor, x: Inputs) -> Tensor:
    return value / T**2


def kd_lib() -> Iterator[Pair]:
    common = _module("KD_Lib.KD.common", BaseClass=object)
    parts = {"KD_Lib": _module("KD_Lib"), "KD_Lib__KD": _module("KD_Lib.KD"), "KD_Lib__KD__common": common}
    rkd = _file("kd-lib", "KD_Lib/KD/vision/RKD/loss_metric.py", "kd_lib_rkd")
    reason = "adds 1e−7 to the mean distance"
    distance, angle = rkd.RKDDistanceLoss(), rkd.RKDAngleLoss()
    yield Pair("RKDDistanceLoss", "relational_distance", lambda x: distance(x.t_vectors, x.s_vectors), reason)
    yield Pair("RKDAngleLoss", "relational_angle", lambda x: angle(x.t_vectors, x.s_vectors))
    maps = _file("kd-lib", "KD_Lib/KD/vision/attention/loss_metric.py", "kd_lib_attention").ATLoss()

    def whole(value: Tensor, x: Inputs) -> Tensor:
        s, t = (F.normalize(one.square().flatten(1)) for one in (x.s_maps[1], x.t_maps[1]))
        return (s - t).square().mean()

    reason = "no sum over channels: the squares of single activations are compared"
    yield Pair("ATLoss", "attention_transfer", lambda x: maps([x.t_maps[1]], [x.s_maps[1]]), reason, whole)
    trainer = object.__new__(
        _file("kd-lib", "KD_Lib/KD/vision/vanilla/vanilla_kd.py", "kd_lib_vanilla", **parts).VanillaKD
    )
    trainer.temp, trainer.distil_weight, trainer.loss_fn = T, 1.0, torch.nn.MSELoss()
    reason = "no divergence: T² times the squared error of the softened probabilities"
    yield Pair(
        "VanillaKD, as it comes", "soft_target", lambda x: trainer.calculate_kd_loss(x.student, x.teacher, x.labels),
        reason, lambda v, x: T**2 * F.mse_loss((x.student / T).softmax(-1), (x.teacher / T).softmax(-1)),
    )  # fmt: skip


def aquvitae() -> Iterator[Pair]:
    base = _module("aquvitae_algo.base_torch", BaseTorch=object)
    parts = {"aquvitae_algo": _module("aquvitae_algo"), "aquvitae_algo__base_torch": base}
    soft = object.__new__(_file("aquvitae", "aquvitae/algo/st_torch.py", "aquvitae_algo.st_torch", **parts).ST)
    soft.T = T
    yield Pair("ST", "soft_target", lambda x: soft.st_loss(x.teacher, x.student))


def sentence_transformers() -> Iterator[Pair]:
    m: Any = import_module("sentence_transformers.sentence_transformer.losses")

    # The logits of a class stand for the scores of a passage, those of class 0 for the scores of the right one.
    def columns(x: Inputs) -> list[Tensor]:
        return [x.student, *x.student.unbind(-1)]

    margin = m.MarginMSELoss(None, similarity_fct=lambda query, passage: passage)
    kl = m.DistillKLDivLoss(None, similarity_fct=lambda query, passage: passage, temperature=T)
    yield Pair("MarginMSELoss", "margin_mse", lambda x: margin.compute_loss_from_embeddings(columns(x), x.teacher))
    yield Pair("DistillKLDivLoss", "soft_target", lambda x: kl.compute_loss_from_embeddings(columns(x), x.teacher))


def trl() -> Iterator[Pair]:
    jsd: Any = import_module("trl.experimental.gold.gold_trainer").GOLDTrainer.generalized_jsd_loss
    for beta, name in ((0.0, "soft_target"), (0.3, "jensen_shannon"), (1.0, "reverse_soft_target")):
        their: Value = lambda x, b=beta: jsd(x.student, x.teacher, beta=b, temperature=T)  # type: ignore[misc]  # noqa: E731
        yield Pair(f"generalized_jsd_loss, beta {beta:g}", name, their, "leaves T² out: ours / T²", _without_t2)


def modelopt() -> Iterator[Pair]:
    m: Any = import_module("modelopt.torch.distill.losses")
    plain, batch = (m.LogitsDistillationLoss(temperature=T, reduction=how) for how in ("mean", "batchmean"))
    reason = "torch's `mean` divides by the classes as well: ours / C"
    yield Pair("LogitsDistillationLoss", "soft_target", lambda x: plain(x.student, x.teacher), reason, _per_class)
    yield Pair("LogitsDistillationLoss, batchmean", "soft_target", lambda x: batch(x.student, x.teacher))


def metric_learning() -> Iterator[Pair]:
    m: Any = import_module("pytorch_metric_learning.losses")
    loss = m.SelfSupervisedLoss(m.NTXentLoss(temperature=0.07), symmetric=False)
    yield Pair("NTXentLoss in SelfSupervisedLoss, one way", "info_nce", lambda x: loss(x.s_vectors, x.t_vectors))


def info_nce() -> Iterator[Pair]:
    m: Any = import_module("info_nce")
    yield Pair("info_nce", "info_nce", lambda x: m.info_nce(x.s_vectors, x.t_vectors, temperature=0.07))


def lightly() -> Iterator[Pair]:
    file = _file("lightly", "lightly/loss/negative_cosine_similarity.py", "lightly_cosine")
    cosine = file.NegativeCosineSimilarity(dim=-1)
    reason = "begins at −1: ours − 1"
    yield Pair(
        "NegativeCosineSimilarity",
        "cosine_hidden",
        lambda x: cosine(x.s_tokens, x.t_tokens),
        reason,
        lambda v, x: v - 1,
    )


FRAMEWORKS: dict[str, Callable[[], Iterator[Pair]]] = {
    "torch": pytorch,
    "torchdistill": torchdistill,
    "mmrazor": mmrazor,
    "textbrewer": textbrewer,
    "kd-lib": kd_lib,
    "aquvitae": aquvitae,
    "sentence-transformers": sentence_transformers,
    "trl": trl,
    "nvidia-modelopt": modelopt,
    "pytorch-metric-learning": metric_learning,
    "info-nce-pytorch": info_nce,
    "lightly": lightly,
}
