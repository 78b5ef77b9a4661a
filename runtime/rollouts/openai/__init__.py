"""The bridge: how a scaffold without a network reaches the model by plain `openai.OpenAI()`.

The bridge is an HTTP server on a unix socket (`server`), outside the sandbox, one for each attempt or process. Inside,
`relay` passes 127.0.0.1 on to that socket. `dialect` is what of OpenAI's API may be asked, and how it is answered.
`session` runs a scaffold that defines `solve` beside a bridge; `child` is the script that stands before that scaffold
in its process.
"""
