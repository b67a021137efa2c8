// Package secret keeps an API's token at hand that AWS Secrets Manager holds.
//
//	token, err := secret.New(secretsmanager.NewFromConfig(cfg), "inventory-token", secret.Config{})
//	...
//	client, err := inventory.New(inventory.Config{
//		BaseURL:     url,
//		TokenSource: token.Get,
//		Retry:       secret.Retry(inventory.ErrUnauthorized),
//	}.WithTransport(token.Transport))
//
// The token is fetched when it is first asked for and again when it is five
// minutes old, by one caller for all that ask at the same time. While Secrets
// Manager does not answer, the last token goes on being used. A token that the
// API answers with 401 is fetched again at once, so that a rotation costs one
// refused request and no message.
//
// The token is the secret's string, without white space round it. It is in no
// error and no log.
package secret
