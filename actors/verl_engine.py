"""The one adapter between raythink and verl 0.9.1's FSDP2 engine (`verl.workers.engine`).

verl calls that interface "subject to change", so every use of it is here: build, forward/backward by micro-batch,
logprobs, export, save, load. On CPU `actors.verl_cpu` supplies the platform; call `prepare_environment` before verl
is imported for the first time in a process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors import block_attention, cpu_layers, layout, learner_state, lora
from actors.messages import TokenBatch

# loss(logprobs, fields, globals, entropy) -> (scalar to minimise, {metric: sum over this micro-batch})
# logprobs/entropy/fields are float32 [b, t]; `globals` holds the whole batch's counts (see `VerlEngine.train`).
Loss = Callable[..., tuple[Any, dict[str, float]]]


@dataclass(frozen=True)
class EngineSettings:
    """What verl's four configuration objects need, in our words."""

    model_path: str
    device: str = "cpu"
    dtype: str = "float32"
    attn: str = "sdpa"
    lr: float = 1e-4
    warmup_steps: int = 0
    total_steps: int = 100
    schedule: str = "constant"
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: float = 1.0
    remove_padding: bool = False
    gradient_checkpointing: bool = False
    offload: bool = False
    temperature: float = 1.0
    entropy: bool = True
    lora_rank: int = 0
    lora_alpha: int = 32
    ulysses: int = 1  # ranks that share each sequence; they are given the same micro-batches
    shard: bool = False  # on CPU, where ranks are replicas otherwise: shard as on GPUs
    reference: bool = False  # keep the first weights, for `VerlEngine.logprobs(batch, reference=True)`


def prepare_environment(device: str) -> None:
    """Point verl at the CPU platform (a no-op on CUDA). Raises RuntimeError if verl was imported before."""
    import sys

    if device != "cpu":
        return
    if "verl" in sys.modules and os.environ.get("VERL_PLATFORM") != "cpu":
        raise RuntimeError("prepare_environment must run before verl is imported")
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "actors.verl_cpu"


def _engine_class():
    """verl's FSDP2 engine with another layout of padded batches; packed ones (remove_padding) are left to verl.

    Rows may hold a prompt once and several completions of it (`actors.layout`), and all logprobs are taken in one
    piece: verl 0.9.1 takes them row by row where flash-attention's cross entropy is missing (one autograd node a
    token), which made a step of a small model on CPU several times slower.
    """
    import torch
    from verl.utils.device import get_device_name
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    class SharedPrefixEngine(FSDPEngineWithLMHead):
        def _build_module(self):
            module = super()._build_module()
            self.by_blocks = False
            if get_device_name() == "cpu":
                cpu_layers.install(module)
                self.by_blocks = block_attention.install(module)
            return module

        def prepare_model_inputs(self, micro_batch):
            if self.use_remove_padding:
                return super().prepare_model_inputs(micro_batch)
            inputs = {name: micro_batch[name] for name in ("input_ids", "position_ids")}
            if micro_batch.get("gather") is None:
                return inputs | {"attention_mask": micro_batch["attention_mask"]}, {}
            blocks = tuple(micro_batch[name] for name in ("gather", "scatter", "buckets"))
            unused = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # or the model would make a mask of N x N
            kept = micro_batch["kept"]
            return inputs | {"attention_mask": unused, "blocks": blocks, "logits_to_keep": kept}, {}

        def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
            if self.use_remove_padding:
                return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
            logits = output.logits.float().flatten(0, 1)
            if micro_batch["temperature"] != 1.0:
                logits = logits / micro_batch["temperature"]
            source, target = micro_batch["source"], micro_batch["target"]
            normaliser = torch.logsumexp(logits, -1)
            result = {"log_probs": logits[source, target] - normaliser[source]}
            if micro_batch["calculate_entropy"]:  # a metric, so it needs no gradient
                with torch.no_grad():
                    entropy = normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
                    result["entropy"] = entropy[source]
            return result

    return SharedPrefixEngine


class VerlEngine:
    """verl's FSDP2 engine for a causal language model, one rank of it.

    Expects `torch.distributed` to be initialised (gloo on CPU, NCCL on CUDA).
    """

    def __init__(self, settings: EngineSettings):
        prepare_environment(settings.device)
        import verl  # noqa: F401  (runs the plug-in hook)
        from verl.trainer.config import CheckpointConfig
        from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig

        short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[settings.dtype]
        self.settings = settings
        self.model_config = HFModelConfig(
            path=settings.model_path,
            use_remove_padding=settings.remove_padding,
            enable_gradient_checkpointing=settings.gradient_checkpointing,
            override_config={"attn_implementation": settings.attn},
            lora_rank=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
        )
        cpu = settings.device == "cpu"
        self.replicas = cpu and not settings.shard
        engine_config = FSDPEngineConfig(
            strategy="fsdp2",
            # On CPU the ranks are replicas: they share one memory, so sharding would gather copies of what is there
            fsdp_size=1 if self.replicas else -1,
            reshard_after_forward=not self.replicas,
            mixed_precision={"param_dtype": short, "reduce_dtype": "fp32"},
            use_torch_compile=False,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=1,  # verl wants a number; the micro-batches are cut by rl/packing.py
            infer_micro_batch_size_per_gpu=1,
            use_remove_padding=settings.remove_padding,
            offload_policy=settings.offload and not cpu,
            ulysses_sequence_parallel_size=settings.ulysses,
            # Deferring the reduction keeps gradients of the whole model on every GPU; on CPU it saves communication
            use_no_sync_for_gradient_accumulation=cpu,
        )
        optimizer_config = FSDPOptimizerConfig(
            lr=settings.lr,
            betas=tuple(settings.betas),
            weight_decay=settings.weight_decay,
            clip_grad=settings.clip_grad,
            lr_warmup_steps=settings.warmup_steps,
            lr_warmup_steps_ratio=0.0,
            total_training_steps=settings.total_steps,
            lr_scheduler_type=settings.schedule,
            min_lr_ratio=settings.min_lr_ratio,
        )
        self.engine = _engine_class()(self.model_config, engine_config, optimizer_config, CheckpointConfig())
        self.engine.initialize()
        self.rank, self.copies = self.engine.rank, self.engine.get_data_parallel_size()
        self.data_rank = self.rank // settings.ulysses
        self._first = self._host_copy() if settings.reference and not settings.lora_rank else []

    def train(self, batch: TokenBatch, loss: Loss, global_counts: dict[str, float]) -> dict[str, float]:
        """One optimizer step on `batch`; returns sums of the loss's metrics over all ranks, grad_norm and lr.

        `loss` sees one micro-batch at a time and must divide by `global_counts` (token and sequence counts of the
        whole batch), so that the gradient does not depend on how the batch is cut. FSDP averages gradients over
        ranks; the loss is therefore multiplied by their number here (those that share a sequence count once), as verl's
        `agg_loss` does with `dp_size`.
        """
        with self.engine.train_mode():
            sums = self._accumulate(batch, loss, global_counts)
            grad_norm = self.engine.optimizer_step()
        lr = self.engine.optimizer.param_groups[0]["lr"]
        self.engine.lr_scheduler_step()
        return {**self._reduce(sums), "grad_norm": float(grad_norm), "lr": float(lr)}

    def gradient(self, batch: TokenBatch, loss: Loss, global_counts: dict[str, float]) -> dict[str, float]:
        """As `train`, without the update: the loss's sums and the norm of the gradient over all ranks."""
        from torch.nn.utils import get_total_norm

        with self.engine.train_mode():
            sums = self._accumulate(batch, loss, global_counts)
            norm = get_total_norm([p.grad for p in self.engine.module.parameters() if p.grad is not None])
            self.engine.optimizer_zero_grad()
        full = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return {**self._reduce(sums), "grad_norm": float(full)}

    def _accumulate(self, batch: TokenBatch, loss: Loss, global_counts: dict[str, float]) -> dict[str, float]:
        """Gradients of this rank's micro-batches into the parameters; returns this rank's sums."""
        engine, sums = self.engine, {}
        engine.optimizer_zero_grad()
        plan = batch.micro_batches[self.data_rank]
        for i, rows in enumerate(plan):
            indices = [i for row in rows for i in row]
            data, fields = self._micro_batch(batch, rows)

            def loss_function(model_output, data, dp_group, fields=fields, indices=indices):
                value, metrics = self._apply(loss, model_output, batch, indices, fields, global_counts)
                return value * self.copies, metrics

            last = i == len(plan) - 1
            if self.replicas:  # what is gathered for a micro-batch serves the next one: it is a copy in the same memory
                engine.module.set_reshard_after_backward(last)
            with engine._gradient_sync_context(is_last_micro_batch=last):
                value, output = engine.forward_step(data, loss_function, forward_only=False)
                value.backward()
            for name, number in output["metrics"].items():
                sums[name] = sums.get(name, 0.0) + float(number)
            sums["loss"] = sums.get("loss", 0.0) + float(output["loss"]) / self.copies
        return sums

    def evaluate(self, batch: TokenBatch, loss: Loss, global_counts: dict[str, float]) -> dict[str, float]:
        """The loss and its metrics without a gradient, summed over all ranks."""
        import torch

        sums: dict[str, float] = {}
        with self.engine.eval_mode(), torch.no_grad():
            for rows in batch.micro_batches[self.data_rank]:
                indices = [i for row in rows for i in row]
                data, fields = self._micro_batch(batch, rows)

                def loss_function(model_output, data, dp_group, fields=fields, indices=indices):
                    return self._apply(loss, model_output, batch, indices, fields, global_counts)

                value, output = self.engine.forward_step(data, loss_function, forward_only=True)
                for name, number in {**output["metrics"], "loss": float(value)}.items():
                    sums[name] = sums.get(name, 0.0) + float(number)
        return self._reduce(sums)

    def logprobs(self, batch: TokenBatch, reference: bool = False) -> dict[int, np.ndarray]:
        """Log-probabilities (natural log) of this rank's sequences: {sequence: float32 [length]}.

        Entry t is log p(token t | tokens < t) for the tokens after the prompt (of a packed batch: those learnt, the
        others mean nothing), and 0 within it. `reference`: under the weights that training began with (needs
        EngineSettings.reference, or adapters).
        """
        import torch

        result: dict[int, np.ndarray] = {}
        policy = self._reference() if reference else nullcontext()
        with policy, self.engine.eval_mode(), torch.no_grad():
            for rows in batch.micro_batches[self.data_rank]:
                indices = [i for row in rows for i in row]
                data, _ = self._micro_batch(batch, rows)
                _, output = self.engine.forward_step(data, None, forward_only=True)
                values = self._padded(output["model_output"], batch, indices)["log_probs"].float().cpu().numpy()
                for index, row in zip(indices, values, strict=True):
                    own = int(batch.lengths[index] - batch.prefixes[index])
                    result[index] = np.zeros(int(batch.lengths[index]), np.float32)
                    result[index][batch.prefixes[index] :] = row[:own]
        return result

    def weights(self) -> Iterator[tuple[str, Any]]:
        """(name, full tensor) of every parameter, in Hugging Face names. A collective: all ranks must iterate."""
        if self.settings.lora_rank:
            learner_state.reshard(self.engine.module)
            named = dict(self.engine.module.named_parameters())
            parameters = lora.merged(named, self.settings.lora_alpha / self.settings.lora_rank, _whole)
        else:
            parameters, _ = self.engine.get_per_tensor_param()
        tied = getattr(self.model_config.hf_config, "tie_word_embeddings", False)
        for name, tensor in parameters:
            if not (tied and name == "lm_head.weight"):
                yield name, tensor.detach()

    @contextmanager
    def _reference(self) -> Iterator[None]:
        """The first weights in place of the current ones: adapters off, or the copy on the host swapped in."""
        if self.settings.lora_rank:
            with self.engine.disable_adapter():
                yield
            return
        if not self._first:
            raise RuntimeError("the first weights were not kept: set EngineSettings.reference")
        current = self._host_copy()
        try:
            self._put(self._first)
            yield
        finally:
            self._put(current)

    def _host_copy(self) -> list[Any]:
        """This rank's shards of all parameters, in host memory."""
        learner_state.reshard(self.engine.module)
        return [_local(p).detach().to("cpu", copy=True) for p in self.engine.module.parameters()]

    def _put(self, shards: list[Any]) -> None:
        import torch

        learner_state.reshard(self.engine.module)
        with torch.no_grad():
            for parameter, shard in zip(self.engine.module.parameters(), shards, strict=True):
                _local(parameter).copy_(shard)

    def snapshot(self, state: bool = True) -> learner_state.Snapshot:
        """What a checkpoint holds of this rank, copied to host memory; see `actors.learner_state`. A collective.

        `state`: with what exact resume needs, and not the policy alone. Rank 0 alone holds the whole policy.
        """
        import torch

        dtype, policy = getattr(torch, self.settings.dtype), {}
        for name, tensor in self.weights():
            if self.rank == 0:
                policy[name] = tensor.to("cpu", dtype, copy=True).contiguous()
        taken = learner_state.take(self.engine, self.rank) if state else (None, None)
        return learner_state.Snapshot(self.rank, policy, self.model_config, *taken)

    def load_state(self, folder: Path) -> None:
        """What a snapshot wrote as `state/`, by any number of ranks. A collective."""
        learner_state.load(self.engine, folder, self.rank)

    def _apply(self, loss: Loss, model_output: dict, batch: TokenBatch, indices: list[int], fields, counts):
        padded = self._padded(model_output, batch, indices)
        return loss(padded["log_probs"].float(), fields, counts, entropy=padded.get("entropy"))

    def _padded(self, model_output: dict, batch: TokenBatch, indices: list[int]) -> dict:
        """verl's outputs as [b, t] over the tokens after each prompt; a packed batch comes as nested [b, length]."""
        import torch

        width = int(max((batch.lengths[i] - batch.prefixes[i] for i in indices), default=1))
        result = {}
        for name, value in model_output.items():
            if value is not None and value.is_nested:  # position t belongs to token t+1
                rows = [torch.nn.functional.pad(row[:-1], (1, width)) for row in value.unbind()]
                starts = batch.prefixes[indices] if indices else [1]  # a rank with nothing computes a dummy
                value = torch.stack([row[p : p + width] for row, p in zip(rows, starts, strict=True)])
            if value is not None:
                result[name] = value
        return result

    def _micro_batch(self, batch: TokenBatch, rows: tuple[tuple[int, ...], ...]):
        """The TensorDict that the engine wants, and the loss's fields as padded [b, t] over the learnt tokens."""
        import torch
        from tensordict import TensorDict
        from verl.utils import tensordict_utils as tu
        from verl.utils.device import get_device_id

        indices = [i for row in rows for i in row]
        if self.settings.remove_padding:
            tokens = [torch.from_numpy(t.astype(np.int64)) for t in layout.sequences(batch, indices)]
            positions = [torch.arange(len(t)) for t in tokens]
            tensors = {
                "input_ids": torch.nested.as_nested_tensor(tokens, layout=torch.jagged),
                "position_ids": torch.nested.as_nested_tensor(positions, layout=torch.jagged),
            }
        else:
            lay = layout.flat if self.engine.by_blocks and layout.is_flat(batch) else layout.padded
            tensors = {name: torch.from_numpy(value) for name, value in lay(batch, rows).items()}
        data = TensorDict(tensors, batch_size=[])
        tu.assign_non_tensor(
            data,
            use_remove_padding=self.settings.remove_padding,
            temperature=self.settings.temperature,
            calculate_entropy=self.settings.entropy,
            pad_token_id=self.model_config.tokenizer.pad_token_id or 0,
        )
        device = get_device_id()
        fields = {name: torch.from_numpy(value).to(device) for name, value in layout.fields(batch, indices).items()}
        return data, fields

    def _reduce(self, sums: dict[str, float]) -> dict[str, float]:
        """Sum the metrics over ranks (float64, in a fixed order of names); those that share a sequence count once."""
        import torch
        import torch.distributed as dist

        if dist.get_world_size() == 1 or not sums:
            return sums
        from verl.utils.device import get_device_id

        names = sorted(sums)
        values = torch.tensor([sums[n] for n in names], dtype=torch.float64, device=get_device_id())
        dist.all_reduce(values)
        return dict(zip(names, (values / self.settings.ulysses).tolist(), strict=True))


def _local(parameter: Any) -> Any:
    """This rank's part of a parameter, as a plain tensor that shares its memory."""
    return parameter.data.to_local() if hasattr(parameter.data, "to_local") else parameter.data


def _whole(parameter: Any) -> Any:
    """The full tensor of a sharded parameter, where the ranks compute. A collective."""
    from verl.utils.device import get_device_id

    return parameter.data.to(get_device_id()).full_tensor() if hasattr(parameter, "full_tensor") else parameter.data
