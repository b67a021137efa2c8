// Package secret caches an API's token from AWS Secrets Manager.
//
//	token, err := secret.New(secretsmanager.NewFromConfig(cfg), "inventory-token", secret.Config{})
//	...
//	client, err := inventory.New(inventory.Config{
//		BaseURL:     url,
//		TokenSource: token.Get,
//		Retry:       secret.Retry(inventory.ErrUnauthorized),
//	}.WithTransport(token.Transport))
//
// The token is fetched on first use and again when it is five minutes old;
// concurrent callers share one fetch. While Secrets Manager does not answer, the
// last token stays in use. When the API answers a token with 401, the token is
// fetched again at once, so that a rotation costs one refused request and no
// message.
//
// The token is the secret's string, without surrounding white space. It appears in
// no error and no log.
package secret
