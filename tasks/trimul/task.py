"""The TriMul task's name, description and default settings."""

NAME = "trimul"
DESCRIPTION = (
    "Write a fast kernel for the triangular multiplicative update. The answer is the whole source of a Python module, "
    "in torch or Triton, that defines custom_kernel(data). data is (x, mask, weights, config): x float32 (B, N, N, C); "
    "mask (B, N, N), float32 or int64; weights a dict with norm.weight and norm.bias (C), left_proj.weight, "
    "right_proj.weight, left_gate.weight, right_gate.weight and out_gate.weight (H, C), to_out_norm.weight and "
    "to_out_norm.bias (H), to_out.weight (C, H); config a dict with dim = C and hidden_dim = H = 128. It returns "
    "float32 (B, N, N, C): x = LN(x); l = (x Wl^T) * mask * sigmoid(x Wlg^T); r likewise; "
    "o[b,i,j,d] = sum_k l[b,i,k,d] r[b,j,k,d]; y = (LN(o) * sigmoid(x Wog^T)) Wout^T, each LN with epsilon 1e-5. "
    "Every element must be within 2e-2 + 2e-2 |y|, for any shape and any mask. An item names the shape that is timed. "
    "The reward is the reference's time over the kernel's, on this CPU with one thread; with `--verifier cuda` it is "
    "1500 over the geometric mean of microseconds on a GPU. A kernel that fails or is wrong earns 0."
)
POLICY = "tiny-lm"
GENERATIONS = 3
MAX_TOKENS = 32
SOLVED = None
