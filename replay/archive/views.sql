-- Each candidate that was evaluated on dev: parents, scaffold, adapter, score with its 95 % interval, what first items and a second look said,
-- and its verdict.
CREATE VIEW candidates AS
WITH verdicts AS (
    SELECT run, generation, 'accepted' AS verdict FROM candidate_accepted
    UNION ALL SELECT run, generation, 'kept' FROM candidate_kept UNION ALL SELECT run, generation, 'rejected' FROM candidate_rejected
), made AS (  -- in older logs the parent is the candidate that the agent was asked to change
    SELECT e.run, e.generation, CASE WHEN len(e.parents) > 0 THEN e.parents WHEN f.run IS NULL THEN [] ELSE [f.candidate] END AS parents
    FROM candidate_evaluated e LEFT JOIN feedback_requested f USING (run, generation)
)
SELECT e.run, e.generation, e.candidate, e.lever, e.scaffold, e.adapter, e.score,
    CASE WHEN e.low < e.high THEN e.low END AS low, CASE WHEN e.low < e.high THEN e.high END AS high, e.items, e.failed,
    e.pass_at_1, e.pass_at_k, e.tied_groups, v.verdict, v.verdict = 'accepted' AS accepted,
    m.parents, m.parents[1] AS parent, m.parents[2] AS second_parent, s.summary AS change,
    t.score AS first_score, t.items AS first_items, t.passed AS first_passed,
    k.difference AS recheck_difference, k.low AS recheck_low, k.high AS recheck_high, k.against AS recheck_against,
    k.attempts AS recheck_attempts, c.child
FROM candidate_evaluated e
JOIN made m USING (run, generation)
LEFT JOIN verdicts v USING (run, generation) LEFT JOIN scaffold_proposed s USING (run, generation)
LEFT JOIN stage_evaluated t USING (run, generation) LEFT JOIN candidate_rechecked k USING (run, generation)
LEFT JOIN child_run_ordered c USING (run, generation);

-- Each candidate's ancestors, by either parent, with the least number of changes between; 0 is the candidate itself.
CREATE VIEW lineage AS
WITH RECURSIVE steps AS (
    SELECT run, generation, candidate, candidate AS ancestor, generation AS ancestor_generation, 0 AS depth FROM candidates
    UNION  -- by ids: a fork's candidates have their ancestors in its parent's rows
    SELECT s.run, s.generation, s.candidate, p.candidate, p.generation, s.depth + 1
    FROM steps s JOIN candidates c ON c.candidate = s.ancestor JOIN candidates p ON list_contains(c.parents, p.candidate)
)
SELECT run, generation, candidate, ancestor, ancestor_generation, min(depth) AS depth
FROM steps GROUP BY run, generation, candidate, ancestor, ancestor_generation;

-- Each attempt at an item: what was answered, its reward and outcome, or how it failed (then there is no reward).
CREATE VIEW trajectories AS
SELECT t.seq, t.run, t.generation, t.purpose, t.split, t.item, t.attempt, t.id AS trajectory, t.request, t.scaffold, t.adapter,
    t.answer, s.reward, coalesce(s.outcome, CASE WHEN f.run IS NOT NULL THEN 'not scored' END) AS outcome,
    f.reason AS failure, t.calls, t.seconds, t.time
FROM trajectory_recorded t
LEFT JOIN trajectory_scored s ON s.run = t.run AND s.trajectory = t.id
LEFT JOIN scoring_failed f ON f.run = t.run AND f.trajectory = t.id
UNION ALL
SELECT f.seq, f.run, q.generation, f.purpose, q.split, f.item, f.attempt, NULL, f.request, q.scaffold, q.adapter,
    NULL, NULL, f.kind, f.reason, [], NULL, f.time
FROM rollout_failed f JOIN rollouts_requested q ON q.run = f.run AND q.id = f.request;

-- Each item as it fared in one generation for one purpose: attempts, how many failed to run or to be scored, mean and best reward.
CREATE VIEW rewards AS
SELECT run, generation, purpose, item, count(*) AS attempts, count(failure) AS failed, avg(reward) AS mean, max(reward) AS best
FROM trajectories GROUP BY run, generation, purpose, item;

-- The answer with the highest reward that a run met for each purpose, of several the first that was scored.
CREATE VIEW best_answers AS
WITH best AS (
    SELECT s.run, q.purpose, arg_max(s.trajectory, (s.reward, -s.seq)) AS trajectory, max(s.reward) AS reward
    FROM trajectory_scored s JOIN rollouts_requested q ON q.run = s.run AND q.id = s.request GROUP BY s.run, q.purpose
)
SELECT b.run, b.purpose, t.split, t.generation, t.item, t.attempt, b.trajectory, t.answer, b.reward, t.seq
FROM best b JOIN trajectory_recorded t ON t.run = b.run AND t.id = b.trajectory;

-- Each item of dev as a vote answers it, over the attempts of a run's start and of its repeats: the most frequent answer, of several the
-- first given by generation and attempt, the reward that it had, and the mean of all items' rewards. No verifier takes part in the choice.
CREATE VIEW votes AS
WITH attempts AS (
    SELECT t.run, t.item, coalesce(t.answer, '') AS answer, t.reward,
        row_number() OVER (PARTITION BY t.run, t.item ORDER BY t.generation, t.attempt) AS place
    FROM trajectories t JOIN candidate_evaluated e ON e.run = t.run AND e.generation = t.generation
    WHERE t.purpose = 'dev' AND t.reward IS NOT NULL AND e.lever IN ('start', 'repeat')
), answers AS (
    SELECT run, item, answer, count(*) AS votes, min(place) AS first, arg_min(reward, place) AS reward,
        sum(count(*)) OVER (PARTITION BY run, item)::BIGINT AS attempts
    FROM attempts GROUP BY run, item, answer
), elected AS (
    SELECT * FROM answers QUALIFY row_number() OVER (PARTITION BY run, item ORDER BY answer = '', votes DESC, first) = 1
)
SELECT run, item, answer, votes, attempts, reward, avg(reward) OVER (PARTITION BY run) AS score FROM elected;

-- Each choice of a lever: how likely it was, the parent's score, the score that came of it, and the gain over the parent.
CREATE VIEW levers AS
SELECT l.run, l.generation, l.lever, l.action, l.reason, coalesce(l.propensities[l.lever], l.propensities[l.action]) AS propensity,
    r.schedule, l.diagnosis, f.candidate AS parent, p.score AS parent_score, e.score, e.score - p.score AS gain, e.verdict, e.accepted
FROM lever_chosen l
LEFT JOIN run_started r USING (run)
LEFT JOIN feedback_requested f USING (run, generation)
LEFT JOIN candidate_evaluated p ON p.candidate = f.candidate  -- of a fork, it may stand in its parent's rows
LEFT JOIN candidates e ON e.run = l.run AND e.generation = l.generation;

-- Each run that belongs to a candidate of another: who ordered it, with what, and what it ended with.
CREATE VIEW children AS
SELECT o.run, o.generation, o.child, r.reason AS wanted, o.levers, o.generations, o.rollouts AS limited_to,
    o.scaffold AS from_scaffold, o.adapter AS from_adapter, f.reason AS ended, f.scaffold, f.adapter, f.rollouts, f.tokens, f.micro_usd
FROM child_run_ordered o
LEFT JOIN child_run_requested r USING (run, generation) LEFT JOIN child_run_finished f USING (run, generation);

-- Each artefact that a candidate left: its blob, what it is, and what became of the candidate.
CREATE VIEW artefacts AS
SELECT a.run, a.generation, a.name, a.blob, a.media_type, a.size, a.summary, c.candidate, c.score, c.verdict
FROM artefact_published a LEFT JOIN candidates c USING (run, generation);

-- Each adapter: the batch and the requests whose trajectories trained it, its steps and last loss, and whether it was served.
CREATE VIEW adapters AS
WITH steps AS (
    SELECT run, batch, count(*) AS steps, arg_min(loss, step) AS first_loss, arg_max(loss, step) AS last_loss,
        arg_max(kl_to_base, step) AS kl_to_base, sum(seconds) AS seconds
    FROM optimizer_step_applied GROUP BY run, batch
), versions AS (
    SELECT run, generation, adapter, max(round) AS version FROM adapter_published GROUP BY run, generation, adapter
), lags AS (
    SELECT b.run, b.generation, b.round, max(abs(coalesce(trained.version, 0) - coalesce(played.version, 0))) AS lag
    FROM (SELECT run, generation, round, parent_adapter, unnest(requests) AS request FROM training_batch_sealed) b
    JOIN rollouts_requested r ON r.run = b.run AND r.id = b.request
    LEFT JOIN versions trained ON (trained.run, trained.generation, trained.adapter) = (b.run, b.generation, b.parent_adapter)
    LEFT JOIN versions played ON (played.run, played.generation, played.adapter) = (b.run, b.generation, r.adapter)
    GROUP BY b.run, b.generation, b.round
)
SELECT p.run, p.generation, p.round, p.adapter, p.parent_adapter, p.algorithm, b.hyper, p.batch, b.requests, b.trajectories, p.trained_on,
    l.lag, p.left_out, p.masked_tokens, p.repeated,
    s.steps, s.first_loss, s.last_loss, s.kl_to_base, s.seconds,
    CASE WHEN v.run IS NOT NULL THEN true WHEN r.run IS NOT NULL THEN false END AS served, v.error AS canary_error, r.reason AS rejected
FROM adapter_published p
LEFT JOIN training_batch_sealed b USING (run, generation, round)
LEFT JOIN lags l USING (run, generation, round)
LEFT JOIN steps s ON s.run = p.run AND s.batch = p.batch
LEFT JOIN adapter_served v ON v.run = p.run AND v.adapter = p.adapter AND v.batch = p.batch
LEFT JOIN adapter_rejected r ON r.run = p.run AND r.adapter = p.adapter AND r.batch = p.batch;

-- Each round whose labels were elected and not known: how far the votes agreed, how often the label was right, and how often the reward was.
CREATE VIEW elections AS
WITH judged AS (
    SELECT l.run, l.generation, l.round, l.request, l.item, l.votes, l.answers,
        coalesce(max(t.reward) FILTER (t.answer = l.answer) >= coalesce(s.solved, 1), false) AS label_right,
        avg((coalesce(t.answer = l.answer, false) = (t.reward >= coalesce(s.solved, 1)))::INTEGER) AS rewards_right
    FROM label_estimated l LEFT JOIN run_started s ON s.run = l.run
    LEFT JOIN trajectories t ON t.run = l.run AND t.request = l.request AND t.item = l.item
    GROUP BY l.run, l.generation, l.round, l.request, l.item, l.votes, l.answers, s.solved
)
SELECT run, generation, round, count(*) AS labels, avg(votes / answers) AS agreement,
    avg(label_right::INTEGER) AS label_accuracy, avg(rewards_right) AS reward_accuracy
FROM judged GROUP BY run, generation, round;

-- What each generation used for each purpose: rollouts, model calls, tokens, seconds of the model, millionths of a US dollar, and the share
-- of completions that were cut. The calls of the agents' language model have the agent as purpose, those of a verifier's judge `judge`,
-- and what an agent tried out `trial`, of which neither calls nor their seconds are known.
-- Tokens that no server reported and costs that nobody knows are NULL, and so is a sum where none of its calls told.
CREATE VIEW cost AS
WITH parts AS (
    WITH called AS (
        SELECT run, request, count(*) AS calls, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
            sum(seconds) AS seconds, sum(micro_usd) AS micro_usd, sum(len(cut)) AS told, sum(len(list_filter(cut, lambda one: one))) AS cut,
            sum(repeated) AS repeated
        FROM model_called GROUP BY run, request
    ), judged AS (
        SELECT run, request, sum(micro_usd) AS micro_usd FROM trajectory_scored WHERE micro_usd > 0 GROUP BY run, request
    ), played AS (
        SELECT run, request, count(*) AS rollouts, count(*) FILTER (failed) AS failed
        FROM (SELECT run, request, false AS failed FROM trajectory_recorded UNION ALL SELECT run, request, true FROM rollout_failed)
        GROUP BY run, request
    ), asked AS (
        SELECT run, generation, agent AS purpose, prompt_tokens, completion_tokens, seconds, micro_usd FROM agent_called
        UNION ALL SELECT run, generation, 'judge', prompt_tokens, completion_tokens, seconds, micro_usd FROM judge_called
    )
    SELECT q.run, q.generation, q.purpose, coalesce(sum(p.rollouts), 0) AS rollouts, coalesce(sum(p.failed), 0) AS failed,
        coalesce(sum(c.calls), 0) AS model_calls, coalesce(sum(c.prompt_tokens), 0) AS prompt_tokens,
        coalesce(sum(c.completion_tokens), 0) AS completion_tokens,
        coalesce(sum(c.prompt_tokens) + sum(c.completion_tokens), 0) AS tokens,
        coalesce(sum(c.seconds), 0) AS model_seconds, coalesce(sum(c.micro_usd), 0) + coalesce(sum(j.micro_usd), 0) AS micro_usd,
        sum(c.cut) AS cut, sum(c.told) AS told, coalesce(sum(c.repeated), 0) AS repeated, 0 AS unreported, 0 AS unpriced
    FROM rollouts_requested q
    LEFT JOIN called c ON c.run = q.run AND c.request = q.id
    LEFT JOIN judged j ON j.run = q.run AND j.request = q.id
    LEFT JOIN played p ON p.run = q.run AND p.request = q.id
    GROUP BY q.run, q.generation, q.purpose
    UNION ALL
    SELECT run, generation, purpose, 0, 0, count(*), sum(prompt_tokens), sum(completion_tokens),
        sum(prompt_tokens + completion_tokens), sum(seconds), sum(micro_usd), NULL, NULL, 0,
        count(*) FILTER (prompt_tokens IS NULL OR completion_tokens IS NULL), count(*) FILTER (micro_usd IS NULL)
    FROM asked GROUP BY run, generation, purpose
    UNION ALL
    SELECT run, generation, 'trial', sum(rollouts), 0, NULL, sum(prompt_tokens), sum(completion_tokens),
        sum(prompt_tokens + completion_tokens), NULL, sum(micro_usd), NULL, NULL, 0, 0, 0
    FROM trial_finished GROUP BY run, generation
)
SELECT run, generation, purpose, sum(rollouts)::BIGINT AS rollouts, sum(failed)::BIGINT AS failed, sum(model_calls)::BIGINT AS model_calls,
    sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(completion_tokens)::BIGINT AS completion_tokens, sum(tokens)::BIGINT AS tokens,
    sum(model_seconds) AS model_seconds, sum(micro_usd)::BIGINT AS micro_usd, sum(cut) / nullif(sum(told), 0) AS cut,
    sum(repeated)::BIGINT AS repeated, sum(unreported)::BIGINT AS unreported, sum(unpriced)::BIGINT AS unpriced
FROM parts GROUP BY run, generation, purpose;

-- Each generation: the lever pulled and why, the dev score of what came of it, whether it was accepted, and what it took.
CREATE VIEW generations AS
WITH begun AS (
    SELECT run, generation, min(time) AS time FROM (
        SELECT run, generation, time FROM scaffold_requested UNION ALL SELECT run, generation, time FROM parent_selected
        UNION ALL SELECT run, generation, time FROM feedback_requested UNION ALL SELECT run, generation, time FROM candidate_evaluated
    ) GROUP BY run, generation
), played AS (
    SELECT run, generation, sum(rollouts) AS rollouts FROM cost GROUP BY run, generation
)
SELECT b.run, b.generation, coalesce(e.lever, l.lever) AS lever, l.action, l.reason, e.score,
    CASE WHEN e.low < e.high THEN e.low END AS low, CASE WHEN e.low < e.high THEN e.high END AS high,
    CASE WHEN a.run IS NOT NULL THEN true WHEN coalesce(k.run, r.run) IS NOT NULL THEN false END AS accepted,
    CASE WHEN a.run IS NOT NULL THEN 'accepted' WHEN k.run IS NOT NULL THEN 'kept' WHEN r.run IS NOT NULL THEN 'rejected' END AS standing,
    coalesce(a.reason, k.reason, r.reason) AS verdict, coalesce(p.rollouts, 0)::BIGINT AS rollouts, b.time AS started,
    date_diff('millisecond', b.time, coalesce(a.time, k.time, r.time, e.time)) / 1000 AS seconds
FROM begun b
LEFT JOIN lever_chosen l USING (run, generation) LEFT JOIN candidate_evaluated e USING (run, generation)
LEFT JOIN candidate_accepted a USING (run, generation) LEFT JOIN candidate_kept k USING (run, generation)
LEFT JOIN candidate_rejected r USING (run, generation)
LEFT JOIN played p USING (run, generation);

-- Each run: what it was asked to do, how far it is, the scores it began and stands at, and what it used itself. The words of `state` are those
-- of replay/run_state.py. A fork stands at its past's best candidate until it has one of its own, unless its scores mean something else.
CREATE VIEW runs AS
WITH RECURSIVE past(run, holder, last) AS (
    SELECT run, run, 9223372036854775807 FROM run_started
    UNION
    SELECT p.run, s.parent_run, s.parent_sequence::BIGINT
    FROM past p JOIN run_started s ON s.run = p.holder JOIN run_started h ON h.run = s.parent_run
    WHERE (s.verifier, s.verifier_code, s.base_model, s.max_tokens) = (h.verifier, h.verifier_code, h.base_model, h.max_tokens)
), made AS (  -- as in `candidates`
    SELECT e.generation, e.candidate, CASE WHEN len(e.parents) > 0 THEN e.parents ELSE [f.candidate] END AS parents
    FROM candidate_evaluated e LEFT JOIN feedback_requested f USING (run, generation)
), undone(run, generation, candidate) AS (  -- what was rolled back, with all that was made from it
    SELECT p.run, m.generation, m.candidate FROM audit_released r JOIN past p ON p.holder = r.run AND r.seq <= p.last
    JOIN made m ON m.generation = r.generation WHERE r.action = 'rollback'
    UNION
    SELECT u.run, m.generation, m.candidate FROM undone u JOIN made m ON list_contains(m.parents, u.candidate)
), best AS (
    SELECT p.run, arg_max(e.score, a.seq) AS score, arg_max(a.candidate, a.seq) AS candidate
    FROM past p JOIN candidate_accepted a ON a.run = p.holder AND a.seq <= p.last
    JOIN candidate_evaluated e ON e.run = a.run AND e.candidate = a.candidate
    WHERE NOT EXISTS (SELECT 1 FROM undone u WHERE u.run = p.run AND u.candidate = a.candidate AND u.generation > 0)  -- the start stays
    GROUP BY p.run
), used AS (
    SELECT run, sum(rollouts) AS rollouts, sum(tokens) AS tokens, sum(micro_usd) AS micro_usd, sum(unreported) AS unreported,
        sum(unpriced) AS unpriced
    FROM cost GROUP BY run
), scored AS (
    SELECT run, count(*) AS generations, arg_min(score, generation) AS first_score FROM candidate_evaluated GROUP BY run
), halted AS (
    SELECT run, max(p.seq) > coalesce(max(r.seq), 0) AS paused FROM run_paused p LEFT JOIN run_resumed r USING (run) GROUP BY run
), latest AS (
    SELECT run, max(time) AS time FROM events GROUP BY run
)
SELECT s.run, s.task, s.policy, s.agent, s.strategy, s.seed, s.levers,
    CASE WHEN f.run IS NULL THEN CASE WHEN h.paused THEN 'paused' ELSE 'running' END
        WHEN f.reason = 'cancelled' OR starts_with(f.reason, 'cancelled: ') THEN 'cancelled'
        WHEN f.candidate = '' THEN 'failed' WHEN f.reason = 'budget exhausted' THEN 'budget exhausted' ELSE 'finished' END AS state,
    f.reason, s.time AS started, f.time AS finished,
    date_diff('millisecond', s.time, coalesce(f.time, l.time)) / 1000 AS seconds,
    coalesce(c.generations, 0) AS generations, c.first_score,
    CASE WHEN f.run IS NULL THEN b.score WHEN f.candidate <> '' THEN f.score END AS score,
    CASE WHEN f.run IS NULL THEN b.candidate ELSE nullif(f.candidate, '') END AS candidate, coalesce(u.rollouts, 0)::BIGINT AS rollouts,
    CASE WHEN u.tokens IS NULL AND coalesce(u.unreported, 0) = 0 THEN 0 ELSE u.tokens END::BIGINT AS tokens,
    CASE WHEN u.micro_usd IS NULL AND coalesce(u.unpriced, 0) = 0 THEN 0 ELSE u.micro_usd END::BIGINT AS micro_usd,
    s.parent_run, s.parent_sequence, s.width, s.schedule, s.owner, s.owner_generation,
    coalesce(u.unreported, 0)::BIGINT AS unreported, coalesce(u.unpriced, 0)::BIGINT AS unpriced
FROM run_started s
LEFT JOIN run_finished f USING (run) LEFT JOIN halted h USING (run) LEFT JOIN latest l USING (run)
LEFT JOIN scored c USING (run) LEFT JOIN best b USING (run) LEFT JOIN used u USING (run);
