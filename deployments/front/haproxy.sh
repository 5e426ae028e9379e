#!/bin/sh
# Starts HAProxy (RAYTHINK_HAPROXY) as Ray does, `-db -f CONFIG ...`, with two things changed: the pages of statistics
# and Prometheus metrics in Ray's configuration, which would listen on all interfaces, are left out, and a request that
# no replica can answer gets an error in OpenAI's format.
set -e
sed -i -e '/^frontend prometheus$/,/^ *no log$/d' -e '/^listen stats$/,$d' "$3"
cp "$(dirname "$0")/unavailable.http" "$(dirname "$3")/500.http" # Ray's own, by its name there
exec "$RAYTHINK_HAPROXY" "$@"
