# Stands in for postgres: Debian's package, with a database and a user `sostenuto` whose password is PASSWORD.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 sostenuto
ENV PATH=/usr/lib/postgresql/17/bin:/usr/bin:/bin
# In a directory of /tmp, as the user of all pods, which must have a name.
CMD ["bash", "-euc", "\
    initdb --username=sostenuto --encoding=UTF8 --auth-local=trust --auth-host=scram-sha-256 --pwfile=<(echo PASSWORD) --pgdata=/tmp/data >/dev/null; \
    echo 'host all all all scram-sha-256' >>/tmp/data/pg_hba.conf; \
    { until createdb --host=/tmp --username=sostenuto --no-password sostenuto 2>/dev/null; do sleep 1; done; } & \
    exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp"]
