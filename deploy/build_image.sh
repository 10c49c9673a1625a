#!/usr/bin/env bash
# Builds the image kneegrade:latest, as root on Debian with mmdebstrap and buildah; no base image is pulled.
# PIP_OPTIONS: where torch for the CPU is, if not in PyTorch's own index.
set -euo pipefail
cd "$(dirname "$0")/.."
pip_options=${PIP_OPTIONS:---extra-index-url https://download.pytorch.org/whl/cpu}
context=build/image
for tool in mmdebstrap buildah; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install --no-install-recommends mmdebstrap buildah" >&2; exit 2; }
done

rm -rf "$context/wheels" "$context"/*.whl
mkdir -p "$context/wheels"
[ -x build/tools/bin/pip ] || python3 -m venv build/tools
build/tools/bin/pip install --quiet --upgrade pip build
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
PIP_CONSTRAINT=$PWD/deploy/build-constraints.txt build/tools/bin/python -m build --wheel --outdir "$context" >/dev/null
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
# shellcheck disable=SC2086  # several options
build/tools/bin/pip download --quiet --require-hashes --no-deps --only-binary :all: --python-version 3.11 \
  "${platforms[@]}" $pip_options --dest "$context/wheels" -r requirements.lock
cp requirements.lock "$context/"
[ -e "$context/rootfs.tar" ] ||
  mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$context/rootfs.tar"
buildah build --isolation chroot --format docker --tag kneegrade:latest --file deploy/Containerfile "$context"
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' kneegrade:latest
