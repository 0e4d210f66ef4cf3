# Stands in for gcr.io/distroless/python3-debian13:nonroot: the same packages of Debian 13, unpacked and not installed.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE} AS packages
WORKDIR /packages
RUN apt-get update && apt-get download \
    base-files netbase tzdata media-types ca-certificates libc6 libssl3t64 zlib1g libzstd1 \
    gcc-14-base libgcc-s1 libgomp1 libstdc++6 \
    libbz2-1.0 libcom-err2 libcrypt1 libdb5.3t64 libexpat1 libffi8 libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 \
    libkrb5support0 liblzma5 libncursesw6 libnsl2 libreadline8t64 libsqlite3-0 libtinfo6 libtirpc3t64 libuuid1 \
    libpython3.13-minimal libpython3.13-stdlib python3.13-minimal
RUN mkdir /root-of-image && for package in *.deb; do dpkg-deb --extract "$package" /root-of-image; done \
    && cd /root-of-image && rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/lintian \
    && printf 'root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' > etc/passwd \
    && printf 'root:x:0:\nnonroot:x:65532:\n' > etc/group \
    && ln -s python3.13 usr/bin/python3 && ln -s python3.13 usr/bin/python \
    && mkdir -p home/nonroot tmp && chown 65532:65532 home/nonroot && chmod 1777 tmp

FROM scratch
COPY --from=packages /root-of-image /
ENV LANG=C.UTF-8
WORKDIR /home/nonroot
USER 65532:65532
ENTRYPOINT ["/usr/bin/python3.13"]
