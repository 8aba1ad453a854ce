"""The page at /: Swagger UI over the OpenAPI document."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="UTF-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Image classifier</title>
    <link rel="stylesheet" href="./static_content/swagger-ui.css">
    <link rel="icon" type="image/png" href="./static_content/favicon-light-32x32.png">
    <style>body { margin: 0 } .topbar { display: none }</style>
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="./static_content/swagger-ui-bundle.js"></script>
    <script src="./static_content/swagger-ui-standalone-preset.js"></script>
    <script src="./static_content/swagger-initializer.js"></script>
  </body>
</html>
"""
"""Not BentoML's: the page of 1.4.39 has the reader's browser load Google Tag Manager."""

FILES = frozenset(
    f"/static_content/{name}"
    for name in (
        "favicon-light-32x32.png",
        "swagger-initializer.js",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
        "swagger-ui.css",
    )
)
"""What the page needs of the files that BentoML serves."""
