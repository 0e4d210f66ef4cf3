# Stands in for tensorflow/serving: this project's model_server behind TensorFlow Serving's name and flags.
ARG EXPORTER_IMAGE
FROM ${EXPORTER_IMAGE}
COPY model_server /sostenuto/model_server
COPY tests/compose/images/tensorflow_model_server /usr/bin/tensorflow_model_server
USER root
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
CMD []
