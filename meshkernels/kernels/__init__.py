"""The arithmetic of the executors: NumPy arrays in, NumPy arrays out; nothing here knows a mesh or an algorithm.

From the bottom up:

* `host`: what the CPU offers, and the blocking that follows; `memory`: aligned buffers that wait for the next product.
* `intrinsics`: what Numba lacks, as LLVM IR; `compiled`: how kernels are compiled and cached.
* `ukernel`: the micro-kernel, with its contract; `pack`: operands in the order in which it reads them.
* `storage`: how matrices are stored, `decoding`: their numbers decoded in registers; `resident`: weights that stay so.
* `pool`: the worker threads; `reduce`: the loop that combines partial values; `loops`: what macro-kernels share.
* `ring`, `chains`, `tiles`, `gemv`: products, each with its macro-kernel; `team`: many GEMVs in quick succession.
* `attention`: the local sums of attention and norms; `elementwise`: what is done to each number between products.
* `program`: calls of kernels, recorded once and run many times with no Python between them.
"""
