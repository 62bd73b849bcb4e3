"""One update of BCQ, BEAR and BRAC, against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
    HIDDEN,
    Squashed,
    adam,
    adam_along,
    averaged,
    check_update,
    critics,
    like,
    mlp,
    some_state,
    transitions,
)

from ddm.policy_constraint import bcq, bear, brac

MODEL = {
    "hidden_sizes": HIDDEN, "vae_hidden_sizes": HIDDEN, "latent_dim": 3, "discount": 0.9,
    "actor_learning_rate": 0.02, "critic_learning_rate": 0.03, "vae_learning_rate": 0.04,
    "target_rate": 0.1, "minimum_weight": 0.7, "kl_weight": 0.6, "latent_clip": 0.4,
    "log_var_min": -1.5, "log_var_max": 0.8, "num_target_samples": 5,
}  # fmt: skip


# The behaviour model.


def part(params, name):
    return {"params": params["params"][name]}


def decode(params, observations, latents):
    inputs = jnp.concatenate([like(observations, latents), latents], axis=-1)
    return mlp(part(params, "decoder"), inputs)


def vae_step(old, batch, key):
    noise = jax.random.normal(key, (16, 3))

    def loss(params):
        inputs = jnp.concatenate([batch.observations, batch.actions], axis=-1)
        mean, log_var = jnp.split(mlp(part(params, "posterior"), inputs), 2, axis=-1)
        log_var = jnp.clip(log_var, -1.5, 0.8)
        decoded = jnp.tanh(decode(params, batch.observations, mean + jnp.exp(log_var / 2) * noise))
        divergence = 0.5 * (jnp.exp(log_var) + mean**2 - 1.0 - log_var)
        return ((decoded - batch.actions) ** 2).mean() + 0.6 * divergence.mean()

    vae, now = adam(loss, old.vae, 0.04), loss(old.vae.params)
    tracker, progress = track(old.vae_tracker, now)
    share = progress / jnp.maximum(tracker.slow, 1e-8)
    return vae, tracker, {"vae_loss": now, "vae_progress": share}


def track(tracker, loss):
    """Averages whose weights are rate (1 - rate)^age, over their sum."""
    count = tracker.count + 1

    def average(old, rate):
        return old + rate / (1.0 - (1.0 - rate) ** count) * (loss - old)

    tracker = tracker.replace(
        fast=average(tracker.fast, 0.01), slow=average(tracker.slow, 0.001), count=count
    )
    return tracker, tracker.slow - tracker.fast


def best(values, share=0.7):
    """Each action's mixture of smallest and largest critic first, then the best action."""
    return (share * values.min(axis=0) + (1.0 - share) * values.max(axis=0)).max(axis=-1)


def critic_step(old, batch, next_values):
    y = batch.rewards + 0.9 * (1.0 - batch.terminations) * next_values

    def loss(params):
        return ((critics(params, batch.observations, batch.actions) - y) ** 2).mean(axis=1).sum()

    metrics = {
        "critic_loss": loss(old.critic.params),
        "q_value": critics(old.critic.params, batch.observations, batch.actions).mean(),
        "reward_max": jnp.abs(batch.rewards).max(),
    }
    return followed(adam(loss, old.critic, 0.03)), metrics


def followed(model):
    """With its targets moved."""
    return model.replace(target_params=averaged(model.target_params, model.params, 0.1))


def test_bcq():
    config = bcq.Config(**MODEL, perturbation=0.3)

    def perturbed(params, observations, actions):
        inputs = jnp.concatenate([like(observations, actions), actions], axis=-1)
        return jnp.clip(actions + 0.3 * jnp.tanh(mlp(params, inputs)), -1.0, 1.0)

    def equations(old, batch):
        key, vae_key, proposal_key = jax.random.split(old.key, 3)
        vae, tracker, vae_metrics = vae_step(old, batch, vae_key)
        latents = jnp.clip(jax.random.normal(proposal_key, (16, 6, 3)), -0.4, 0.4)
        # The new model's: one at s, five at s'.
        at_s = jnp.tanh(decode(vae.params, batch.observations, latents[:, 0]))
        at_next = jnp.tanh(decode(vae.params, batch.next_observations, latents[:, 1:]))
        next_actions = perturbed(old.actor.target_params, batch.next_observations, at_next)
        next_values = critics(old.critic.target_params, batch.next_observations, next_actions)
        critic, metrics = critic_step(old, batch, best(next_values))

        def actor_loss(params):
            actions = perturbed(params, batch.observations, at_s)
            values = critics(critic.params, batch.observations, actions)
            return -values[0].mean(), values

        actor = adam(lambda params: actor_loss(params)[0], old.actor, 0.02)
        loss, values = actor_loss(old.actor.params)
        new = old.replace(
            vae=vae,
            vae_tracker=tracker,
            actor=followed(actor),
            critic=critic,
            step=5,
            key=key,
        )
        return new, metrics | vae_metrics | {"actor_loss": loss}, (next_values, values)

    check_update(bcq, config, transitions(), equations)


BEAR = bear.Config(
    **MODEL, alpha_learning_rate=0.05, epsilon=0.2, bandwidth=3.0, log_std_min=-1.0,
    log_std_max=0.3, num_mmd_samples=4, deviation_weight=0.4, warmup_steps=4,
)  # fmt: skip


def bear_equations(old, batch, improves=1.0):
    key, vae_key, target_key, actor_key = jax.random.split(old.key, 4)
    vae, tracker, vae_metrics = vae_step(old, batch, vae_key)
    policy = Squashed(BEAR, old.actor.params, batch.next_observations)
    next_actions = jnp.moveaxis(policy.sample(target_key, 5)[0], 0, 1)
    next_values = critics(old.critic.target_params, batch.next_observations, next_actions)
    critic, metrics = critic_step(old, batch, best(next_values))

    policy_key, proposal_key = jax.random.split(actor_key)
    latents = jnp.clip(jax.random.normal(proposal_key, (16, 4, 3)), -0.4, 0.4)
    logged = decode(vae.params, batch.observations, latents)  # before the tanh
    alpha = jnp.exp(old.alpha.params)

    def kernel(one, other):
        distances = jnp.abs(one[:, :, None] - other[:, None]).sum(axis=-1)
        return jnp.exp(-distances / 6.0).mean(axis=(1, 2))

    def actor_loss(params):
        raw = Squashed(BEAR, params, batch.observations).raw(policy_key, 4)
        mine = jnp.moveaxis(raw, 0, 1)
        squared = kernel(mine, mine) + kernel(logged, logged) - 2.0 * kernel(mine, logged)
        mmd = jnp.sqrt(squared + 1e-6).mean()
        values = critics(old.critic.params, batch.observations, jnp.tanh(raw[0]))
        merit = (values.min(axis=0) - 0.4 * values.std(axis=0)).mean()
        return alpha * (mmd - 0.2) - improves * merit, (mmd, values)

    loss, (mmd, values) = actor_loss(old.actor.params)
    log_alpha = adam_along(-alpha * (mmd - 0.2), old.alpha, 0.05)
    new = old.replace(
        vae=vae,
        vae_tracker=tracker,
        actor=adam(lambda params: actor_loss(params)[0], old.actor, 0.02),
        critic=critic,
        alpha=log_alpha,
        step=5,
        key=key,
    )
    more = {"actor_loss": loss, "mmd": mmd, "log_alpha": log_alpha.params}
    return new, metrics | vae_metrics | more, (next_values, values)


def test_bear():
    check_update(bear, BEAR, transitions(), bear_equations)


BRAC = brac.Config(
    hidden_sizes=HIDDEN, actor_learning_rate=0.02, critic_learning_rate=0.03,
    behavior_learning_rate=0.04, divergence_learning_rate=0.05, alpha_learning_rate=0.06,
    target_divergence=0.3, entropy_weight=0.2, minimum_weight=0.7, discount=0.9, target_rate=0.1,
    warmup_steps=4, log_std_min=-1.0, log_std_max=0.3, num_samples=3, divergence_steps=2,
    slope_penalty_weight=2.0, max_slope=0.5, adaptive=True,
)  # fmt: skip


def brac_log_prob(params, observations, actions):
    inside = jnp.clip(actions, -0.999, 0.999)
    return Squashed(BRAC, params, observations).log_prob_of_raw(jnp.arctanh(inside))


def behavior_step(behavior, batch):
    """The behaviour policy after a step of its likelihood."""

    def loss(params):
        return -brac_log_prob(params, batch.observations, batch.actions).mean()

    now = loss(behavior.policy.params)
    fit, progress = track(behavior.fit, now)
    policy = adam(loss, behavior.policy, 0.04)
    metrics = {"behavior_loss": now, "behavior_progress": progress}
    return behavior.replace(policy=policy, fit=fit), metrics


def score(params, observations, actions):
    """The divergence's critic."""
    return critics(params, observations, actions)[0]


def dual_steps(critic, actor, batch, key):
    """The divergence's critic after two steps, each with actions of its own."""
    metrics = {}
    for step_key in jax.random.split(key, 2):
        action_key, mix_key = jax.random.split(step_key)
        actions, _ = Squashed(BRAC, actor.params, batch.observations).sample(action_key)
        shares = jax.random.uniform(mix_key, (16, 1))
        between = (1.0 - shares) * actions + shares * batch.actions

        def penalty(params, between=between):
            slopes = jax.vmap(jax.grad(lambda action, s: score(params, s[None], action[None])[0]))(
                between, batch.observations
            )
            lengths = jnp.sqrt((slopes**2).sum(axis=1) + 1e-8)
            return (jnp.maximum(lengths - 0.5, 0.0) ** 2).mean()

        def dual_loss(params, actions=actions, penalty=penalty):
            of_policy = score(params, batch.observations, actions)
            gain = of_policy - score(params, batch.observations, batch.actions)
            return 2.0 * penalty(params) - gain.mean()

        metrics = {"slope_penalty": penalty(critic.params)}
        critic = adam(dual_loss, critic, 0.05)
    return critic, metrics


def mixed(values):
    return 0.7 * values.min(axis=0) + 0.3 * values.max(axis=0)


def brac_equations(dual):
    def equations(old, batch):
        key, target_key, actor_key, divergence_key = jax.random.split(old.key, 4)
        alpha, metrics, behavior = old.alpha.params, {}, old.behavior
        if not dual:
            behavior, metrics = behavior_step(behavior, batch)

        def divergence(policy, observations, logged, key):
            if dual:
                actions, _ = policy.sample(key)
                params = old.divergence_critic.params
                return score(params, observations, actions) - score(params, observations, logged)
            actions, log_probs = policy.sample(key, 3)
            return (log_probs - brac_log_prob(behavior.policy.params, observations, actions)).mean(
                0
            )

        action_key, sample_key = jax.random.split(target_key)
        policy = Squashed(BRAC, old.actor.params, batch.next_observations)
        actions, log_probs = policy.sample(action_key)
        next_values = critics(old.critic.target_params, batch.next_observations, actions)
        apart = divergence(policy, batch.next_observations, batch.next_actions, sample_key)
        worth = mixed(next_values) - 0.2 * log_probs - alpha * apart
        critic, critic_metrics = critic_step(old, batch, worth)

        action_key, sample_key = jax.random.split(actor_key)

        def actor_loss(params):
            policy = Squashed(BRAC, params, batch.observations)
            actions, log_probs = policy.sample(action_key)
            values = critics(critic.params, batch.observations, actions)
            apart = divergence(policy, batch.observations, batch.actions, sample_key)
            return (alpha * apart + 0.2 * log_probs - mixed(values)).mean(), (
                apart.mean(), log_probs.mean(), values,
            )  # fmt: skip

        loss, (apart, log_prob_mean, values) = actor_loss(old.actor.params)
        actor = adam(lambda params: actor_loss(params)[0], old.actor, 0.02)
        divergence_critic = old.divergence_critic
        if dual:
            divergence_critic, metrics = dual_steps(divergence_critic, actor, batch, divergence_key)
        stepped = adam_along(-(apart - 0.3), old.alpha, 0.06)
        new = old.replace(
            actor=actor,
            behavior=behavior,
            divergence_critic=divergence_critic,
            critic=critic,
            alpha=stepped.replace(params=jnp.clip(stepped.params, 0.0, 500.0)),
            step=5,
            key=key,
        )
        more = {
            "actor_loss": loss, "divergence": apart, "entropy": -log_prob_mean,
            "value_weight": 1.0, "alpha": alpha,
        }  # fmt: skip
        return new, metrics | critic_metrics | more, (next_values, values)

    return equations


@pytest.mark.parametrize("divergence", ["kl", "wasserstein"])
def test_brac(divergence):
    config = BRAC.replace(divergence=divergence)
    batch = transitions("next_actions") if divergence == "wasserstein" else transitions()
    check_update(brac, config, batch, brac_equations(divergence == "wasserstein"))


@pytest.mark.parametrize(("algorithm", "config"), [(bear, BEAR), (brac, BRAC)])
def test_the_best_of_the_policys_actions_by_the_first_critic_is_taken(algorithm, config):
    config = config.replace(num_eval_samples=6)
    batch = transitions()
    state = some_state(algorithm, config, batch)
    for seed, one in enumerate(batch.observations[:4]):
        key = jax.random.key(seed)
        for deterministic in (False, True):
            action, _ = algorithm.act(config, state, one, key, deterministic=deterministic)
            drawn = jax.random.key(0) if deterministic else key
            actions, _ = Squashed(config, state.actor.params, one[None]).sample(drawn, 6)
            values = critics(state.critic.params, one[None], jnp.moveaxis(actions, 0, 1))
            best_action = actions[int(np.argmax(values[0, 0])), 0]
            np.testing.assert_allclose(action, best_action, atol=1e-5)
