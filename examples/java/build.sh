#!/usr/bin/env bash
# Compile the example against gRPC for Java as Debian packages it, and print the class path to run it with.
#   apt-get install default-jdk-headless protobuf-compiler protobuf-compiler-grpc-java-plugin libgrpc-java \
#     libnetty-java libprotobuf-java libgoogle-gson-java libjsr305-java libperfmark-java
# GOOGLEAPIS is a folder that has google/rpc/*.proto, as of https://github.com/googleapis/googleapis or of the Python
# package googleapis-common-protos.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-build}
mkdir -p "$out/java" "$out/classes"
protoc -I../../proto -I"$GOOGLEAPIS" --java_out="$out/java" --grpc-java_out="$out/java" \
  --plugin=protoc-gen-grpc-java="$(command -v grpc_java_plugin)" \
  smallm/ner/v1/ner.proto google/rpc/status.proto google/rpc/error_details.proto
jars=/usr/share/java
classpath=$out/classes
for jar in grpc-{api,core,context,stub,protobuf,protobuf-lite,netty} protobuf guava gson jsr305 perfmark-api \
  netty-{buffer,codec,codec-http,codec-http2,codec-socks,common,handler,handler-proxy,resolver,transport}; do
  classpath=$classpath:$jars/$jar.jar
done
find "$out/java" -name '*.java' > "$out/sources"
javac -nowarn -cp "$classpath:$jars/geronimo-annotation-1.3-spec.jar" -d "$out/classes" RecognizeExample.java @"$out/sources" 2> "$out/warnings" ||
  { cat "$out/warnings" >&2; exit 1; }
echo "$classpath"
