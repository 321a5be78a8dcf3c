#!/usr/bin/env bash
# Fetch Apache Kafka for tests, by Maven from whatever repository it is set up with, and print the folder with its jars.
# What is there already is not fetched again. Maven checks each file against the repository's checksum.
set -euo pipefail

version=4.1.1
folder=${KAFKA_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/tallystick/kafka-$version}

if [ ! -e "$folder/complete" ]; then
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/kafka.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  cat >"$scratch/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tallystick</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-nop</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
POM
  mkdir -p "$folder"
  mvn --batch-mode --quiet --strict-checksums --file "$scratch/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies "-DoutputDirectory=$folder" >&2
  touch "$folder/complete"
fi
echo "$folder"
