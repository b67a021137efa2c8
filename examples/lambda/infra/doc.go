// Package infra holds the checks of the example's template.yaml: that its
// numbers are consistent, that roles and queue policies allow what is needed and
// nothing else, and that the gateway gives the intended answers. Tests prove that
// every check fails on copies of the template that are broken on purpose.
//
//	go test ./examples/lambda/infra
//
// Three checks need more than Go: the schemas of CloudFormation and SAM, cfn-guard,
// and Apache Velocity for the gateway's mapping templates. With
//
//	npm install --prefix tools --legacy-peer-deps @aws-cdk/aws-service-spec@0.1.216 \
//		@cdklabs/cdk-validator-cfnguard@0.0.62 js-yaml@4.3.2
//	apt-get install velocity openjdk-17-jdk-headless
//	ln -s /usr/share/java/{velocity,commons-lang,commons-collections3}.jar tools/
//	RAMPMETER_TEMPLATE_TOOLS=$PWD/tools go test ./examples/lambda/infra
//
// they run, too.
package infra
