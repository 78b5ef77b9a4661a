"""Simulated counts of single cells, whose true expression is known.

    mu_g ~ LogNormal(0, gene_sigma),
    type k: mu_g times LogNormal(0, de_scale)^(+-1) exp(.3 N(0, 1)) for each gene with probability de_prob
    P_cg = row-normalised profile of the cell's type, or of a place between a type and its parent on a random tree
    counts_cg ~ Poisson(depth_c P_cg Gamma(1/bcv^2, bcv^2)),  depth_c ~ depth LogNormal(0, depth_sigma)

As in Splat (Zappia 2017, Genome Biology 18:174) but for gene means, which are log-normal here, and for the tree of
types.
"""

from typing import NamedTuple

import numpy as np

from tasks.denoise.metric import Matrix


class SimulatedCounts(NamedTuple):
    """Three matrices (cells, genes): counts, each cell's true share of each gene, and the means that its counts were
    drawn at.

    These means hold the noise of the cell, the Gamma factor above; the shares do not.
    """

    counts: Matrix
    truth: Matrix
    rate: Matrix


def simulate(
    seed: int | list[int],
    cells: int,
    genes: int,
    *,
    types: int = 6,
    depth: float = 1500.0,
    depth_sigma: float = 0.4,
    gene_sigma: float = 2.2,
    de_prob: float = 0.2,
    de_scale: float = 0.8,
    between: float = 0.3,
    bcv: float = 0.15,
) -> SimulatedCounts:
    """Draw a data set; the same seed gives the same counts. Genes seen in no cell, and cells of under two molecules,
    are left out.

    `depth` is the median of a cell's molecules; `between` the share of cells on the way from a type to its parent;
    `bcv` the biological coefficient of variation.
    """
    rng = np.random.default_rng(seed)
    parents = [0, *(int(rng.integers(count)) for count in range(1, types))]
    profiles = [rng.normal(0, gene_sigma, genes)]
    for parent in parents[1:]:
        changed = rng.random(genes) < de_prob
        factor = rng.choice([-1, 1], genes) * rng.normal(0, de_scale, genes) + 0.3 * rng.normal(size=genes)
        profiles.append(profiles[parent] + changed * factor)
    type_index = rng.choice(types, cells, p=rng.dirichlet(np.full(types, 2.0)))
    fraction = np.where(rng.random(cells) < between, rng.random(cells), 0.0)[:, None]
    log_means = np.array(profiles)
    means = np.exp((1 - fraction) * log_means[type_index] + fraction * log_means[np.array(parents)[type_index]])
    truth = means / means.sum(axis=1, keepdims=True)
    depths = depth * rng.lognormal(0, depth_sigma, cells)
    rate = depths[:, None] * truth * rng.gamma(1 / bcv**2, bcv**2, truth.shape)
    counts = rng.poisson(rate)
    kept_cells, kept_genes = counts.sum(axis=1) >= 2, counts.sum(axis=0) >= 1
    selection = np.ix_(kept_cells, kept_genes)
    return SimulatedCounts(counts[selection], truth[selection], rate[selection])
