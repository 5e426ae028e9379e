#!/bin/sh
# Starts HAProxy (RAYTHINK_HAPROXY) as Ray does, `-db -f CONFIG ...`, with two things in Ray's configuration changed:
# its pages of statistics and Prometheus metrics, which would listen on all interfaces, are left out, and a request
# that no replica can answer gets an error in OpenAI's format.
set -e
here=$(cd "$(dirname "$0")" && pwd)
sed -i -e '/^frontend prometheus$/,/^ *no log$/d' -e '/^listen stats$/,$d' \
    -e "s#^\( *errorfile 50[234]\) .*#\1 $here/unavailable.http#" "$3"
exec "$RAYTHINK_HAPROXY" "$@"
