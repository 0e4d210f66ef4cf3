# TensorFlow Serving's image around an executable that was built elsewhere: the build context is the executable's directory.
# If it is a Python program, or needs TensorFlow's libraries, it finds the exporter's Python first.
ARG EXPORTER_IMAGE
FROM ${EXPORTER_IMAGE}
ARG EXECUTABLE=tensorflow_model_server
USER root
COPY . /opt/tensorflow-serving
ENV PATH=/sostenuto/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    TENSORFLOW_MODEL_SERVER_CACHE=/opt/tensorflow-serving/cache
# The first run also unpacks what the executable carries with it, which a read-only container could not.
RUN ln -s "/opt/tensorflow-serving/${EXECUTABLE}" /usr/bin/tensorflow_model_server \
    && tensorflow_model_server --version \
    && chmod -R a+rX /opt/tensorflow-serving
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
CMD []
