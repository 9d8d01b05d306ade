#!/bin/sh
# Starts a worker where the runner starts processes: --environment_type=PROCESS with
# --environment_config='{"command": "/path/of/boot.sh"}'.
#
# HOARFROST_BOOT  the boot program of Beam's SDK container, which this script runs:
#                 go install github.com/apache/beam/sdks/v2/python/container@v2.77.0
# PATH            has the `python` that Hoarfrost is installed for.
#
# The boot program would start the worker again for minutes after the runner is gone. So it is ended
# when the process that called this script has ended, or has ended this script.
set -u
for argument do
  shift
  # Prism puts the worker's id into quotes.
  set -- "$@" "$(printf %s "$argument" | tr -d "\"'")"
done
folder=$(mktemp -d)
cd "$folder" || exit 1
export RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
runner=$PPID
"$HOARFROST_BOOT" --semi_persist_dir="$folder" "$@" &
boot=$!
(
  # A process gets another parent when its own ends.
  while grep -q "^PPid:[[:space:]]*$runner\$" "/proc/$$/status" 2> /dev/null; do
    kill -0 "$boot" 2> /dev/null || break
    sleep 1
  done
  kill "$boot" 2> /dev/null
  rm -rf "$folder"
) &
trap 'kill "$boot" 2> /dev/null' TERM INT
wait "$boot"
