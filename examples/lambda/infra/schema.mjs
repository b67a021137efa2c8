// Checks CloudFormation templates against the schemas of their resources:
// unknown resource types and properties, missing ones, values of another type,
// and references to what is not there.
//
//	RAMPMETER_TEMPLATE_TOOLS=<directory with node_modules> node schema.mjs template.yaml ...
//
// It prints a line for each problem and then exits with status 1. It needs
// @aws-cdk/aws-service-spec and js-yaml.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.RAMPMETER_TEMPLATE_TOOLS, 'schema.cjs'));
const yaml = require('js-yaml');
const db = require('@aws-cdk/aws-service-spec').loadAwsServiceSpecSync();

// What SAM passes on as it is, and its schema does not say, is checked against
// the resource that it is passed to.
const passedOn = {
	'AWS::Serverless::Api': { FailOnWarnings: 'AWS::ApiGateway::RestApi', MethodSettings: 'AWS::ApiGateway::Stage' },
	'AWS::Serverless::Function': { LoggingConfig: 'AWS::Lambda::Function' },
};
// SAM's resources have the attributes of those that they become.
const becomes = { 'AWS::Serverless::Api': 'AWS::ApiGateway::RestApi', 'AWS::Serverless::Function': 'AWS::Lambda::Function' };

const sections = ['AWSTemplateFormatVersion', 'Transform', 'Description', 'Metadata', 'Parameters', 'Mappings', 'Conditions', 'Rules', 'Resources', 'Outputs', 'Globals'];
const resourceKeys = ['Type', 'Properties', 'DependsOn', 'Condition', 'DeletionPolicy', 'UpdateReplacePolicy', 'CreationPolicy', 'UpdatePolicy', 'Metadata'];
const parameterKeys = ['Type', 'Description', 'Default', 'AllowedPattern', 'AllowedValues', 'ConstraintDescription', 'MinValue', 'MaxValue', 'MinLength', 'MaxLength', 'NoEcho'];
const outputKeys = ['Description', 'Value', 'Export', 'Condition'];
const pseudo = ['AccountId', 'NoValue', 'NotificationARNs', 'Partition', 'Region', 'StackId', 'StackName', 'URLSuffix'].map((n) => `AWS::${n}`);

const functions = ['And', 'Base64', 'Cidr', 'Condition', 'Equals', 'FindInMap', 'GetAtt', 'GetAZs', 'If', 'ImportValue', 'Join', 'Not', 'Or', 'Ref', 'Select', 'Split', 'Sub'];
const long = (name) => (name === 'Ref' || name === 'Condition' ? name : `Fn::${name}`);
const tags = functions.flatMap((name) => ['scalar', 'sequence', 'mapping'].map((kind) => new yaml.Type(`!${name}`, {
	kind,
	construct: (v) => ({ [long(name)]: name === 'GetAtt' && kind === 'scalar' ? [v.slice(0, v.indexOf('.')), v.slice(v.indexOf('.') + 1)] : v }),
})));
const cloudFormation = yaml.CORE_SCHEMA.extend(tags);

const isObject = (v) => v !== null && typeof v === 'object' && !Array.isArray(v);
const intrinsic = (v) => {
	const [name, ...others] = isObject(v) ? Object.keys(v) : [];
	return others.length === 0 && (name === 'Ref' || name?.startsWith('Fn::')) ? name : undefined;
};
const schemaOf = (type) => db.lookup('resource', 'cloudFormationType', 'equals', type)[0];
const shown = (v) => JSON.stringify(v).slice(0, 60);

function check(template) {
	const problems = [];
	const report = (path, text) => problems.push(`${path}: ${text}`);
	const keys = (v, allowed, path) => Object.keys(v).filter((k) => !allowed.includes(k)).forEach((k) => report(`${path}.${k}`, 'is not known here'));
	const { Parameters = {}, Conditions = {}, Resources = {}, Outputs = {} } = template;

	function target(name, path) {
		if (!(name in Parameters) && !(name in Resources) && !pseudo.includes(name)) report(path, `refers to ${name}, which is not there`);
	}
	function attribute(name, attr, path) {
		if (!(name in Resources)) return report(path, `refers to ${name}, which is not a resource`);
		const type = Resources[name].Type;
		const schema = schemaOf(becomes[type] ?? type);
		if (schema && !(attr in schema.attributes)) report(path, `${type} has no attribute ${attr}`);
	}
	// references are looked for everywhere, also where there is no schema.
	function references(v, path) {
		if (Array.isArray(v)) return v.forEach((e, i) => references(e, `${path}[${i}]`));
		if (!isObject(v)) return;
		switch (intrinsic(v)) {
			case 'Ref': return target(v.Ref, path);
			case 'Fn::GetAtt': return attribute(v['Fn::GetAtt'][0], v['Fn::GetAtt'][1], path);
			case 'Fn::If':
				if (!(v['Fn::If'][0] in Conditions)) report(path, `has the condition ${v['Fn::If'][0]}, which is not there`);
				break;
			case 'Fn::Sub': {
				const text = v['Fn::Sub'];
				if (typeof text !== 'string') break;
				for (const [, name] of text.matchAll(/\$\{([^!}][^}]*)\}/g)) {
					const dot = name.indexOf('.');
					if (dot < 0) target(name, path);
					else attribute(name.slice(0, dot), name.slice(dot + 1), path);
				}
			}
		}
		for (const [k, e] of Object.entries(v)) references(e, `${path}.${k}`);
	}

	// value reports what is wrong with a value of a property's type.
	function value(v, type, path, tell = report) {
		const name = intrinsic(v);
		if (name === 'Fn::If') return v[name].slice(1).forEach((branch) => value(branch, type, path, tell));
		if (name === 'Ref' && (v.Ref === 'AWS::NoValue' || v.Ref in Parameters)) return; // values of parameters are converted
		const text = name === 'Ref' || name === 'Fn::Sub' || name === 'Fn::Join' || name === 'Fn::GetAtt';
		if (name && !text) return;
		const wanted = (ok, what) => { if (!ok) tell(path, `is ${name ?? shown(v)}: must be ${what}`); };
		const listed = () => { if (type.allowedValues && !name && !type.allowedValues.includes(v)) tell(path, `is ${shown(v)}: must be one of ${type.allowedValues}`); };
		switch (type.type) {
			case 'json': return;
			case 'string': case 'date-time':
				wanted(text || typeof v === 'string', 'a string');
				return listed();
			case 'integer':
				wanted(Number.isInteger(v), 'an integer');
				return listed();
			case 'number': return wanted(typeof v === 'number', 'a number');
			case 'boolean': return wanted(typeof v === 'boolean', 'true or false');
			case 'array':
				wanted(Array.isArray(v), 'a list');
				if (Array.isArray(v)) v.forEach((e, i) => value(e, type.element, `${path}[${i}]`, tell));
				return;
			case 'map':
				wanted(isObject(v) && !name, 'a map');
				if (isObject(v) && !name) Object.entries(v).forEach(([k, e]) => value(e, type.element, `${path}.${k}`, tell));
				return;
			case 'tag': return properties(v, { Key: { required: true, type: { type: 'string' } }, Value: { required: true, type: { type: 'string' } } }, path, tell);
			case 'ref':
				wanted(isObject(v) && !name, 'an object');
				if (isObject(v) && !name) properties(v, db.get('typeDefinition', type.reference.$ref).properties, path, tell);
				return;
			case 'union': {
				const tried = type.types.map((t) => {
					const found = [];
					value(v, t, path, (...problem) => found.push(problem));
					return found;
				});
				const best = tried.sort((a, b) => a.length - b.length)[0];
				best.forEach((problem) => tell(...problem));
			}
		}
	}
	function properties(v, known, path, tell = report, more = {}) {
		for (const [k, e] of Object.entries(v)) {
			const property = more[k] ?? known[k];
			if (property) value(e, property.type, `${path}.${k}`, tell);
			else tell(`${path}.${k}`, 'is not a property');
		}
		for (const [k, p] of Object.entries(known)) if (p.required && !(k in v)) tell(path, `has no ${k}`);
	}

	keys(template, sections, 'template');
	for (const [name, p] of Object.entries(Parameters)) keys(p, parameterKeys, `Parameters.${name}`);
	for (const [name, o] of Object.entries(Outputs)) keys(o, outputKeys, `Outputs.${name}`);
	for (const [name, r] of Object.entries(Resources)) {
		const path = `Resources.${name}`;
		keys(r, resourceKeys, path);
		const schema = schemaOf(r.Type);
		if (!schema) { report(path, `has the unknown type ${r.Type}`); continue; }
		if (schema.cloudFormationTransform && schema.cloudFormationTransform !== template.Transform) report('Transform', `must be ${schema.cloudFormationTransform} for ${r.Type}`);
		const more = {};
		for (const [k, to] of Object.entries(passedOn[r.Type] ?? {})) more[k] = schemaOf(to).properties[k];
		properties(r.Properties ?? {}, schema.properties, `${path}.Properties`, report, more);
	}
	references({ Conditions, Resources, Outputs }, 'template');
	return problems;
}

let found = 0;
for (const file of process.argv.slice(2)) {
	let problems;
	try {
		problems = check(yaml.load(readFileSync(file, 'utf8'), { schema: cloudFormation }));
	} catch (e) {
		problems = [e.message];
	}
	found += problems.length;
	problems.forEach((p) => console.log(`${file}: ${p}`));
}
process.exit(found > 0 ? 1 : 0);
